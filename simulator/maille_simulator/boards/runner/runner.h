#ifndef MAILLE_RUNNER_H
#define MAILLE_RUNNER_H

#include "uart.h"

typedef struct {
    avr_t *avr;
    const char *elf;
    Uart uarts[MAX_UARTS];
    int uart_count;
    uint16_t lowest_stack;
    int watch_stack;
} Board;

/* Power on, or the reset line pulled: SRAM and EEPROM keep what they hold, as on the chip. */
void board_reset(Board *board);

/* Runs until the given cycle or a stop; returns the processor's state as simavr names it. */
int board_run(Board *board, uint64_t until, const int *stop);

/* A byte has left UART 0, at the firmware's speed. */
void pty_output(uint8_t byte, uint32_t baud);

/* Joins UART 0 to a new pseudo-terminal until the parent closes our standard input. */
int pty_main(Board *board, double speed);

#endif
