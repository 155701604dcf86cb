#include "uart.h"

#include <simavr/sim_io.h>
#include <string.h>

#define BITS_PER_BYTE 10
#define CYCLES_OF_LATENESS 64
/* Farther off than this, no receiver of 8 data bits finds the stop bit. */
#define TOLERANCE_PERCENT 5

#define UCSRA_FE 0x10
#define UCSRA_DOR 0x08
#define UCSRA_UPE 0x04

static UartOutput on_output;

static avr_cycle_count_t start_bit(avr_t *avr, avr_cycle_count_t when, void *param);
static avr_cycle_count_t stop_bit(avr_t *avr, avr_cycle_count_t when, void *param);
static avr_cycle_count_t byte_sent(avr_t *avr, avr_cycle_count_t when, void *param);

static uint32_t divider(const Uart *uart)
{
    avr_uart_t *p = uart->port;
    uint32_t value = avr_regbit_get(uart->avr, p->ubrrl) |
                     (uint32_t)(avr_regbit_get(uart->avr, p->ubrrh) << 8);
    return (value + 1) * (avr_regbit_get(uart->avr, p->u2x) ? 8 : 16);
}

uint32_t uart_baud(const Uart *uart)
{
    if (!avr_regbit_get(uart->avr, uart->port->rxen) &&
        !avr_regbit_get(uart->avr, uart->port->txen)) {
        return 0;
    }
    return (uart->avr->frequency + divider(uart) / 2) / divider(uart);
}

static void schedule(Uart *uart, avr_cycle_timer_t timer, uint64_t at)
{
    uint64_t now = uart->avr->cycle;
    avr_cycle_timer_register(uart->avr, at > now ? at - now : 1, timer, uart);
}

/* ---- receiver ---- */

static void schedule_next(Uart *uart)
{
    if (uart->queue_count == 0) {
        return;
    }
    uint64_t at = uart->queue_not_before[uart->queue_read];
    if (at < uart->line_free_at) {
        at = uart->line_free_at;
    }
    if (at + CYCLES_OF_LATENESS < uart->avr->cycle) {
        at = uart->avr->cycle;
    }
    uart->start_at = at;
    schedule(uart, start_bit, at);
}

int uart_send(Uart *uart, uint8_t byte, uint64_t not_before, uint32_t baud)
{
    if (uart->queue_count == UART_QUEUE_BYTES || baud == 0) {
        return 0;
    }
    uint32_t at = (uart->queue_read + uart->queue_count) % UART_QUEUE_BYTES;
    uart->queue[at] = byte;
    uart->queue_not_before[at] = not_before;
    uart->queue_baud[at] = baud;
    uart->queue_count++;
    if (uart->queue_count == 1 && !avr_cycle_timer_status(uart->avr, stop_bit, uart)) {
        schedule_next(uart);
    }
    return 1;
}

static avr_cycle_count_t start_bit(avr_t *avr, avr_cycle_count_t when, void *param)
{
    Uart *uart = param;
    if (uart->shift_full) {
        uart->shift_full = 0; /* nobody took it in time: the new byte goes over it */
        uart->overruns++;
        uart->overrun_pending = 1;
    }
    uint64_t cycles = ((uint64_t)avr->frequency * BITS_PER_BYTE) / uart->queue_baud[uart->queue_read];
    (void)when;
    uart->line_free_at = uart->start_at + cycles;
    schedule(uart, stop_bit, uart->line_free_at);
    return 0;
}

static void show_received(Uart *uart)
{
    avr_t *avr = uart->avr;
    avr_uart_t *p = uart->port;
    uint8_t *status = &avr->data[p->r_ucsra];
    *status &= (uint8_t)~(UCSRA_FE | UCSRA_DOR | UCSRA_UPE);
    if (uart->buffer_count) {
        *status |= uart->buffer_error[0];
        avr_raise_interrupt(avr, &p->rxc);
        avr_regbit_set(avr, p->rxc.raised);
    } else {
        avr_clear_interrupt(avr, &p->rxc);
        avr_regbit_clear(avr, p->rxc.raised);
    }
}

static avr_cycle_count_t stop_bit(avr_t *avr, avr_cycle_count_t when, void *param)
{
    (void)when;
    Uart *uart = param;
    uint8_t byte = uart->queue[uart->queue_read];
    uint32_t baud = uart->queue_baud[uart->queue_read];
    uart->queue_read = (uart->queue_read + 1) % UART_QUEUE_BYTES;
    uart->queue_count--;
    schedule_next(uart);

    if (!avr_regbit_get(avr, uart->port->rxen)) {
        return 0;
    }
    uint32_t own = uart_baud(uart);
    uint32_t difference = own > baud ? own - baud : baud - own;
    uint8_t error = 0;
    if ((uint64_t)difference * 100 > (uint64_t)baud * TOLERANCE_PERCENT) {
        /* Another speed gives another byte; which one is of no importance. */
        byte = (uint8_t)((byte << 3) ^ (byte >> 2) ^ 0xA5);
        error = UCSRA_FE;
        uart->frame_errors++;
    }
    if (uart->overrun_pending) {
        error |= UCSRA_DOR;
        uart->overrun_pending = 0;
    }
    uart->bytes_received++;
    if (uart->buffer_count < 2) {
        uart->buffer[uart->buffer_count] = byte;
        uart->buffer_error[uart->buffer_count++] = error;
        show_received(uart);
    } else {
        uart->shift = byte;
        uart->shift_error = error;
        uart->shift_full = 1;
    }
    return 0;
}

static uint8_t read_data(avr_t *avr, avr_io_addr_t addr, void *param)
{
    Uart *uart = param;
    if (uart->buffer_count) {
        avr->data[addr] = uart->buffer[0];
        uart->buffer[0] = uart->buffer[1];
        uart->buffer_error[0] = uart->buffer_error[1];
        uart->buffer_count--;
        if (uart->shift_full) {
            uart->buffer[uart->buffer_count] = uart->shift;
            uart->buffer_error[uart->buffer_count++] = uart->shift_error;
            uart->shift_full = 0;
        }
        show_received(uart);
    }
    return avr->data[addr];
}

/* ---- transmitter ---- */

static void begin_sending(Uart *uart, uint8_t byte, uint64_t at)
{
    uart->sending = 1;
    uart->sending_byte = byte;
    uart->sent_at = at + (uint64_t)divider(uart) * BITS_PER_BYTE;
    schedule(uart, byte_sent, uart->sent_at);
}

static void show_room(Uart *uart)
{
    avr_uart_t *p = uart->port;
    if (uart->waiting_full) {
        avr_clear_interrupt(uart->avr, &p->udrc);
        avr_regbit_clear(uart->avr, p->udrc.raised);
    } else {
        avr_raise_interrupt(uart->avr, &p->udrc);
        avr_regbit_set(uart->avr, p->udrc.raised);
    }
}

static avr_cycle_count_t byte_sent(avr_t *avr, avr_cycle_count_t when, void *param)
{
    Uart *uart = param;
    uart->bytes_sent++;
    (void)when;
    on_output(uart, uart->sent_at, uart->sending_byte, uart_baud(uart));
    uart->sending = 0;
    if (uart->waiting_full) {
        uart->waiting_full = 0;
        begin_sending(uart, uart->waiting_byte, uart->sent_at);
        show_room(uart);
    } else {
        avr_raise_interrupt(avr, &uart->port->txc);
        avr_regbit_set(avr, uart->port->txc.raised);
    }
    return 0;
}

static void write_data(avr_t *avr, avr_io_addr_t addr, uint8_t value, void *param)
{
    (void)addr;
    Uart *uart = param;
    if (!avr_regbit_get(avr, uart->port->txen)) {
        return;
    }
    if (!uart->sending) {
        begin_sending(uart, value, avr->cycle);
    } else {
        uart->waiting_full = 1;
        uart->waiting_byte = value;
    }
    show_room(uart);
}

/* ---- control registers ---- */

static void write_status(avr_t *avr, avr_io_addr_t addr, uint8_t value, void *param)
{
    Uart *uart = param;
    avr_uart_t *p = uart->port;
    uint8_t writable = (uint8_t)(1 << p->u2x.bit) | 1;
    if (value & (1 << p->txc.raised.bit)) { /* a one clears it */
        avr_clear_interrupt(avr, &p->txc);
        avr_regbit_clear(avr, p->txc.raised);
    }
    avr->data[addr] = (uint8_t)((avr->data[addr] & ~writable) | (value & writable));
}

static void write_control(avr_t *avr, avr_io_addr_t addr, uint8_t value, void *param)
{
    Uart *uart = param;
    avr_uart_t *p = uart->port;
    avr->data[addr] = value;
    if (!avr_regbit_get(avr, p->rxen)) {
        uart->buffer_count = 0;
        uart->shift_full = 0;
        avr_regbit_clear(avr, p->rxc.raised);
    }
    if (avr_regbit_get(avr, p->rxc.enable) && avr_regbit_get(avr, p->rxc.raised)) {
        avr_raise_interrupt(avr, &p->rxc);
    }
    if (avr_regbit_get(avr, p->udrc.enable) && avr_regbit_get(avr, p->udrc.raised)) {
        avr_raise_interrupt(avr, &p->udrc);
    }
    if (avr_regbit_get(avr, p->txc.enable) && avr_regbit_get(avr, p->txc.raised)) {
        avr_raise_interrupt(avr, &p->txc);
    }
}

static void write_plain(avr_t *avr, avr_io_addr_t addr, uint8_t value, void *param)
{
    (void)param;
    avr->data[addr] = value;
}

static uint8_t read_plain(avr_t *avr, avr_io_addr_t addr, void *param)
{
    (void)param;
    return avr->data[addr];
}

static void hook(Uart *uart, avr_io_addr_t addr, avr_io_read_t read, avr_io_write_t write)
{
    avr_t *avr = uart->avr;
    avr_io_addr_t at = AVR_DATA_TO_IO(addr);
    avr->io[at].r.c = read;
    avr->io[at].r.param = uart;
    avr->io[at].w.c = write;
    avr->io[at].w.param = uart;
}

void uart_reset(Uart *uart)
{
    avr_uart_t *p = uart->port;
    uart->buffer_count = uart->shift_full = uart->overrun_pending = 0;
    uart->sending = uart->waiting_full = 0;
    uart->avr->data[p->r_ucsra] = 0;
    avr_regbit_set(uart->avr, p->udrc.raised);
    avr_regbit_clear(uart->avr, p->txen);
    /* avr_reset forgot every timer, the wire goes on */
    if (uart->queue_count) {
        schedule_next(uart);
    }
}

int uarts_attach(avr_t *avr, Uart uarts[MAX_UARTS], UartOutput output)
{
    int count = 0;
    on_output = output;
    for (avr_io_t *io = avr->io_port; io; io = io->next) {
        if (strcmp(io->kind, "uart") != 0) {
            continue;
        }
        avr_uart_t *port = (avr_uart_t *)io;
        int number = port->name - '0';
        if (number < 0 || number >= MAX_UARTS) {
            continue;
        }
        Uart *uart = &uarts[number];
        memset(uart, 0, sizeof *uart);
        uart->avr = avr;
        uart->port = port;
        uart->number = (uint8_t)number;
        hook(uart, port->r_udr, read_data, write_data);
        hook(uart, port->r_ucsra, read_plain, write_status);
        hook(uart, port->r_ucsrb, read_plain, write_control);
        hook(uart, port->r_ucsrc, read_plain, write_plain);
        hook(uart, port->ubrrl.reg, read_plain, write_plain);
        hook(uart, port->ubrrh.reg, read_plain, write_plain);
        uart_reset(uart);
        if (number + 1 > count) {
            count = number + 1;
        }
    }
    return count;
}
