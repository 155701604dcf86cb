/* Runs one AVR in virtual time, obeying commands on standard input (see ../avr.py, its only
 * speaker), or on a pseudo-terminal with --pty.
 *
 *   maille-avr-runner MCU FREQUENCY ELF [--pty SPEED [EEPROM]]
 *
 * SPEED is board time over real time, 0: as fast as it goes. EEPROM is a file that the chip's EEPROM
 * is read from, if it is there, and written to at the end.
 */
#include "runner.h"

#include <simavr/avr_adc.h>
#include <simavr/avr_eeprom.h>
#include <simavr/avr_ioport.h>
#include <simavr/sim_elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GPIOR0_ADDRESS 0x3E /* the same on the ATmega328P and the ATmega2560 */
#define STACK_POINTER 0x5D
#define MAX_EVENTS 65536
#define LONGEST_STRETCH 2000

typedef struct {
    uint64_t cycle;
    uint8_t kind; /* 0 to 3: a byte of that UART; 255: a mark */
    uint8_t value;
    uint32_t baud;
} Event;

static Event events[MAX_EVENTS];
static uint32_t event_count;
static int stop_now, stop_at_output, stop_at_mark;
static int reply_to, on_pty;

static void record(uint64_t cycle, uint8_t kind, uint8_t value, uint32_t baud)
{
    if (event_count < MAX_EVENTS) {
        events[event_count++] = (Event){cycle, kind, value, baud};
    }
    if (event_count == MAX_EVENTS) {
        stop_now = 1; /* let the reader empty it rather than lose one */
    }
}

static void uart_output(Uart *uart, uint64_t cycle, uint8_t byte, uint32_t baud)
{
    if (on_pty) {
        if (uart->number == 0) {
            pty_output(byte, baud);
        }
        return;
    }
    record(cycle, uart->number, byte, baud);
    stop_now |= stop_at_output;
}

static void mark_written(avr_t *avr, avr_io_addr_t addr, uint8_t value, void *param)
{
    (void)param;
    avr->data[addr] = value;
    if (on_pty) {
        return;
    }
    record(avr->cycle, 255, value, 0);
    stop_now |= stop_at_mark;
}

static void quiet_logger(avr_t *avr, const int level, const char *format, va_list arguments)
{
    (void)avr;
    if (level <= LOG_ERROR) {
        vfprintf(stderr, format, arguments);
    }
}

static void no_sleep(avr_t *avr, avr_cycle_count_t cycles)
{
    (void)avr;
    (void)cycles; /* virtual time: avr_callback_run_raw has counted them */
}

void board_reset(Board *board)
{
    uint64_t cycle = board->avr->cycle;
    avr_reset(board->avr);
    board->avr->cycle = cycle;
    for (int i = 0; i < board->uart_count; i++) {
        if (board->uarts[i].port) {
            uart_reset(&board->uarts[i]);
        }
    }
}

int board_run(Board *board, uint64_t until, const int *stop)
{
    avr_t *avr = board->avr;
    int state = avr->state;
    while (avr->cycle < until && !*stop && state != cpu_Done && state != cpu_Crashed) {
        uint64_t left = until - avr->cycle;
        uint64_t limit = board->watch_stack ? 1 : LONGEST_STRETCH;
        avr->run_cycle_limit = left < limit ? left : limit;
        if (avr->run_cycle_count > avr->run_cycle_limit) {
            avr->run_cycle_count = avr->run_cycle_limit;
        }
        state = avr_run(avr);
        uint16_t sp = (uint16_t)(avr->data[STACK_POINTER] | avr->data[STACK_POINTER + 1] << 8);
        if (sp >= 0x100 && sp < board->lowest_stack) {
            board->lowest_stack = sp;
        }
    }
    return state;
}

/* ---- the pipe ---- */

static int get(void *to, size_t size)
{
    return fread(to, 1, size, stdin) == size;
}

static void put(const void *from, size_t size)
{
    const uint8_t *at = from;
    while (size) {
        ssize_t written = write(reply_to, at, size);
        if (written <= 0) {
            exit(1);
        }
        at += written;
        size -= (size_t)written;
    }
}

static void put8(uint8_t value) { put(&value, 1); }
static void put32(uint32_t value) { put(&value, 4); }
static void put64(uint64_t value) { put(&value, 8); }

static void reply_events(Board *board, int state)
{
    static uint8_t packed[MAX_EVENTS * 14];
    uint8_t *at = packed;
    for (uint32_t i = 0; i < event_count; i++, at += 14) {
        memcpy(at, &events[i].cycle, 8);
        at[8] = events[i].kind;
        at[9] = events[i].value;
        memcpy(at + 10, &events[i].baud, 4);
    }
    put64(board->avr->cycle);
    put8((uint8_t)state);
    put32(event_count);
    put(packed, (size_t)(at - packed));
    event_count = 0;
}

static void command_run(Board *board)
{
    uint64_t until;
    uint8_t stops;
    if (!get(&until, 8) || !get(&stops, 1)) {
        exit(1);
    }
    stop_now = 0;
    stop_at_output = stops & 1;
    stop_at_mark = (stops >> 1) & 1;
    reply_events(board, board_run(board, until, &stop_now));
}

static void command_send(Board *board)
{
    uint8_t number;
    uint32_t baud, size;
    uint64_t not_before;
    if (!get(&number, 1) || !get(&baud, 4) || !get(&not_before, 8) || !get(&size, 4)) {
        exit(1);
    }
    uint32_t taken = 0;
    for (uint32_t i = 0; i < size; i++) {
        uint8_t byte;
        if (!get(&byte, 1)) {
            exit(1);
        }
        if (number < board->uart_count && board->uarts[number].port) {
            taken += (uint32_t)uart_send(&board->uarts[number], byte, not_before, baud);
        }
    }
    put32(taken);
}

static void command_memory(Board *board, int command)
{
    static uint8_t bytes[65536];
    uint32_t address, size;
    if (!get(&address, 4) || !get(&size, 4) || size > sizeof bytes) {
        exit(1);
    }
    int write = command == 'm' || command == 'e' || command == 'f';
    if (write && !get(bytes, size)) {
        exit(1);
    }
    avr_t *avr = board->avr;
    if (command == 'M' || command == 'm') {
        if (address + size > (uint32_t)avr->ramend + 1) {
            exit(1);
        }
        if (write) {
            memcpy(avr->data + address, bytes, size);
        } else {
            memcpy(bytes, avr->data + address, size);
        }
    } else if (command == 'f') {
        if (address + size > avr->flashend + 1) {
            exit(1);
        }
        memcpy(avr->flash + address, bytes, size);
    } else {
        avr_eeprom_desc_t description = {bytes, (uint16_t)address, size};
        if (avr_ioctl(avr, write ? AVR_IOCTL_EEPROM_SET : AVR_IOCTL_EEPROM_GET, &description) == -2) {
            /* its answer to success is -1 */
            exit(1);
        }
        if (!write && description.ee != bytes) {
            memcpy(bytes, description.ee, size);
        }
    }
    if (write) {
        put8(1);
    } else {
        put(bytes, size);
    }
}

static void command_inputs(Board *board, int command)
{
    uint8_t first, second;
    uint32_t value;
    if (!get(&first, 1) || !get(&second, 1) || !get(&value, 4)) {
        exit(1);
    }
    uint32_t family = command == 'A' ? AVR_IOCTL_ADC_GETIRQ : AVR_IOCTL_IOPORT_GETIRQ(first);
    avr_irq_t *irq = avr_io_getirq(board->avr, family, second);
    if (irq) {
        avr_raise_irq(irq, value);
    }
    put8(irq != NULL);
}

static void command_counters(Board *board)
{
    put32(board->lowest_stack);
    put8((uint8_t)board->uart_count);
    for (int i = 0; i < board->uart_count; i++) {
        Uart *uart = &board->uarts[i];
        put32(uart->port ? uart_baud(uart) : 0);
        put64(uart->bytes_received);
        put64(uart->bytes_sent);
        put64(uart->overruns);
        put64(uart->frame_errors);
        put32(uart->queue_count);
    }
}

static int pipe_main(Board *board)
{
    int command;
    while ((command = getchar()) != EOF) {
        switch (command) {
        case 'R': command_run(board); break;
        case 'S': command_send(board); break;
        case 'M': case 'm': case 'E': case 'e': case 'f':
            command_memory(board, command);
            break;
        case 'A': case 'P': command_inputs(board, command); break;
        case 'C': command_counters(board); break;
        case 'X': board_reset(board); put8(1); break;
        case 'L': board->lowest_stack = board->avr->ramend; put8(1); break;
        case 'D': put32(board->avr->pc); break;
        case 'K': board->watch_stack = 1; put8(1); break;
        default: return 1;
        }
    }
    return 0;
}

static void eeprom_file(Board *board, const char *path, int save)
{
    static uint8_t bytes[65536];
    avr_eeprom_desc_t description = {bytes, 0, board->avr->e2end + 1};
    FILE *file = fopen(path, save ? "wb" : "rb");
    if (!file) {
        return;
    }
    if (save) {
        avr_ioctl(board->avr, AVR_IOCTL_EEPROM_GET, &description);
        fwrite(bytes, 1, description.size, file);
    } else if (fread(bytes, 1, description.size, file) == description.size) {
        avr_ioctl(board->avr, AVR_IOCTL_EEPROM_SET, &description);
    }
    fclose(file);
}

int main(int count, char **arguments)
{
    if (count < 4) {
        fprintf(stderr, "usage: %s MCU FREQUENCY ELF [--pty SPEED [EEPROM]]\n", arguments[0]);
        return 2;
    }
    reply_to = dup(STDOUT_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    avr_global_logger_set(quiet_logger);

    static Board board;
    static elf_firmware_t firmware;
    board.elf = arguments[3];
    if (elf_read_firmware(board.elf, &firmware) != 0) {
        fprintf(stderr, "%s is no AVR program\n", board.elf);
        return 2;
    }
    board.avr = avr_make_mcu_by_name(arguments[1]);
    if (!board.avr) {
        fprintf(stderr, "simavr does not know the chip %s\n", arguments[1]);
        return 2;
    }
    avr_init(board.avr);
    firmware.frequency = (uint32_t)strtoul(arguments[2], NULL, 10);
    avr_load_firmware(board.avr, &firmware);
    board.avr->frequency = firmware.frequency;
    board.avr->vcc = board.avr->avcc = board.avr->aref = 5000;
    board.avr->sleep = no_sleep;
    board.avr->log = LOG_ERROR;
    board.lowest_stack = board.avr->ramend;
    board.uart_count = uarts_attach(board.avr, board.uarts, uart_output);
    avr_register_io_write(board.avr, GPIOR0_ADDRESS, mark_written, NULL);

    on_pty = count >= 6 && strcmp(arguments[4], "--pty") == 0;
    if (!on_pty) {
        return pipe_main(&board);
    }
    const char *eeprom = count >= 7 ? arguments[6] : "/dev/null";
    eeprom_file(&board, eeprom, 0);
    int result = pty_main(&board, strtod(arguments[5], NULL));
    eeprom_file(&board, eeprom, 1);
    return result;
}
