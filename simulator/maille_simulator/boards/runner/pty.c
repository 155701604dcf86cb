/* A board on a pseudo-terminal, for a real gateway.
 *
 * Opening the terminal pulls the reset line, as DTR does on an Uno. The speed of the terminal is
 * the speed of the bytes on the simulated wire, both ways: whoever sets the wrong one reads and
 * writes garbage. `speed` is board time over real time.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SLICE_US 500
#define FARTHEST_BEHIND_NS 50000000
#define OUTPUT_BYTES 16384

static int master;
static uint8_t output[OUTPUT_BYTES];
static size_t output_count;
static uint32_t terminal_baud;

/* termios2 carries any speed (250000 has no code of its own); glibc's headers clash with it. */
struct kernel_termios2 {
    tcflag_t iflag, oflag, cflag, lflag;
    cc_t line, control[19];
    unsigned int input_speed, output_speed;
};
#define GET_TERMIOS2 _IOR('T', 0x2A, struct kernel_termios2)

static uint32_t read_terminal_baud(void)
{
    struct kernel_termios2 exact;
    if (ioctl(master, GET_TERMIOS2, &exact) == 0 && exact.output_speed) {
        return exact.output_speed;
    }
    return 115200;
}

void pty_output(uint8_t byte, uint32_t baud)
{
    uint32_t difference = baud > terminal_baud ? baud - terminal_baud : terminal_baud - baud;
    if ((uint64_t)difference * 100 > (uint64_t)terminal_baud * 5) {
        byte = (uint8_t)((byte << 3) ^ (byte >> 2) ^ 0xA5);
    }
    if (output_count < OUTPUT_BYTES) {
        output[output_count++] = byte;
    }
}

static void flush_output(int connected)
{
    if (!connected) {
        output_count = 0; /* a wire with nobody at its end */
    }
    while (output_count) {
        ssize_t written = write(master, output, output_count);
        if (written <= 0) {
            return;
        }
        memmove(output, output + written, output_count - (size_t)written);
        output_count -= (size_t)written;
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int pty_main(Board *board, double speed)
{
    int slave;
    char name[128];
    struct termios raw;
    memset(&raw, 0, sizeof raw);
    cfmakeraw(&raw);
    raw.c_cflag |= CS8 | CREAD | CLOCAL;
    cfsetspeed(&raw, B115200);
    if (openpty(&master, &slave, name, &raw, NULL) != 0) {
        perror("openpty");
        return 1;
    }
    close(slave);
    fcntl(master, F_SETFL, O_NONBLOCK);
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    dprintf(STDERR_FILENO, "pty %s\n", name);

    avr_t *avr = board->avr;
    const uint64_t slice = (uint64_t)avr->frequency * SLICE_US / 1000000;
    const int never = 0;
    int connected = 0;
    uint64_t base_ns = now_ns(), base_cycle = avr->cycle;
    for (;;) {
        char ignored[256];
        ssize_t from_parent = read(STDIN_FILENO, ignored, sizeof ignored);
        if (from_parent == 0) {
            return 0; /* whoever started us is gone */
        }
        if (from_parent > 0) {
            board_reset(board); /* the button on the board */
        }
        struct pollfd poller = {master, POLLIN, 0};
        poll(&poller, 1, 0);
        int open_now = !(poller.revents & POLLHUP);
        if (open_now && !connected) {
            board_reset(board);
        }
        connected = open_now;
        terminal_baud = read_terminal_baud();
        if (connected && (poller.revents & POLLIN)) {
            uint8_t input[4096];
            ssize_t size = read(master, input, sizeof input);
            for (ssize_t i = 0; i < size; i++) {
                uart_send(&board->uarts[0], input[i], avr->cycle, terminal_baud);
            }
        }
        int state = board_run(board, avr->cycle + slice, &never);
        if (state == cpu_Done || state == cpu_Crashed) {
            dprintf(STDERR_FILENO, "the program has crashed at %x\n", (unsigned)avr->pc);
            return 1;
        }
        flush_output(connected);
        if (speed <= 0) {
            continue;
        }
        uint64_t due_ns = base_ns + (uint64_t)((double)(avr->cycle - base_cycle) * 1e9 / speed /
                                               avr->frequency);
        uint64_t now = now_ns();
        if (due_ns > now) {
            struct timespec pause = {(time_t)((due_ns - now) / 1000000000u),
                                     (long)((due_ns - now) % 1000000000u)};
            nanosleep(&pause, NULL);
        } else if (now - due_ns > FARTHEST_BEHIND_NS) {
            base_ns = now; /* a busy machine: board time falls behind instead of racing after it */
            base_cycle = avr->cycle;
        }
    }
}
