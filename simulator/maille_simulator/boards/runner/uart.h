/* The serial port of an AVR as its data sheet describes it, in place of simavr's own.
 *
 * simavr 1.6 has a receive buffer of 64 bytes that never overflows and rounds the time of a byte,
 * so neither overruns nor speed can be measured with it. This model has the two-byte buffer and the
 * shift register of the hardware, its overrun and frame error flags, a double-buffered transmitter,
 * and times in cycles.
 */
#ifndef MAILLE_RUNNER_UART_H
#define MAILLE_RUNNER_UART_H

#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <stdint.h>

#define MAX_UARTS 4
#define UART_QUEUE_BYTES 65536

typedef struct {
    avr_t *avr;
    avr_uart_t *port;
    uint8_t number;

    /* from the host: bytes, the cycle before which each may not start, and its speed */
    uint8_t queue[UART_QUEUE_BYTES];
    uint64_t queue_not_before[UART_QUEUE_BYTES];
    uint32_t queue_baud[UART_QUEUE_BYTES];
    uint32_t queue_read, queue_count;
    /* Timers fire some cycles late; times of the wire count from when they should have. */
    uint64_t start_at, line_free_at, sent_at;

    uint8_t buffer[2], buffer_error[2], buffer_count;
    uint8_t shift, shift_error, shift_full;
    uint8_t overrun_pending;

    uint8_t sending, sending_byte, waiting_full, waiting_byte;

    uint64_t bytes_received, bytes_sent, overruns, frame_errors;
} Uart;

/* Called for each byte that has wholly left the board. */
typedef void (*UartOutput)(Uart *uart, uint64_t cycle, uint8_t byte, uint32_t baud);

/* Takes the place of every UART of the chip; returns how many there are. */
int uarts_attach(avr_t *avr, Uart uarts[MAX_UARTS], UartOutput output);

/* After avr_reset: what was in the buffers is gone; what is on the wire stays. */
void uart_reset(Uart *uart);

/* Puts a byte on the wire to the board; returns 0 if the queue is full. */
int uart_send(Uart *uart, uint8_t byte, uint64_t not_before, uint32_t baud);

/* Bits per second that the firmware has set, 0 if its receiver and transmitter are off. */
uint32_t uart_baud(const Uart *uart);

#endif
