; Dense kernels for AVR: y[o] = requantise(bias[o] + sum(stored * x) - 128 * sum(x)).
;
; One multiply-accumulate from flash is 8 cycles, LPM 3, MUL 2, three additions 3: the inputs wait in
; sixteen registers (twelve for 32-bit sums) while all rows of a batch go past them, so nothing loads them again. A row's sum is
; fetched and put back once for these products (19 cycles with the loop). What is left of a row's
; length is a last, shorter turn that is entered in the middle.
;
; 24-bit sums are taken modulo 2^24, which TINY.md allows where a layer's flag says so; the others
; modulo 2^32. Interrupts stay on throughout.
;
; void maille_accumulate_MEMORY_BITS(DenseJob *job)   sums of job->rows rows from job->weights on
; void maille_finish_MEMORY_BITS(DenseJob *job)       these sums to outputs; moves channels and y on
; uint32_t maille_sum(const uint8_t *x, uint16_t count)

#ifdef __AVR__
#include <avr/io.h>

; The places of DenseJob's fields, as in kernels.h
#define JOB_WEIGHTS 0
#define JOB_CHANNELS 2
#define JOB_X 4
#define JOB_Y 6
#define JOB_INPUTS 8
#define JOB_CORRECTION 12
#define JOB_ZERO 16
#define JOB_LOW 17
#define JOB_HIGH 18
#define JOB_ROWS 19
#define JOB_SUMS 20

#define WORDS_24 5
#define WORDS_32 6

.macro save_registers
    .irp register, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,28,29
    push r\register
    .endr
.endm

.macro restore_registers_and_return
    .irp register, 29,28,17,16,15,14,13,12,11,10,9,8,7,6,5,4,3,2
    pop r\register
    .endr
    clr r1
    ret
.endm

.macro load_byte memory, register
    .ifc \memory, flash
    lpm \register, Z+
    .else
    ld \register, Z+
    .endif
.endm

; r2 and up: inputs; r18 weight; r19 zero; r20..r23 sum; r24:25 from a row's end to the next row's start
; X inputs to come, or where the short turn enters; Y sums; Z weights; T set: this turn is the short one
.macro accumulate_kernel name, memory, bits, words, columns, counter, inputs:vararg
    ; below 128 KiB of flash: one jump address of 16 bits
    .section .lowtext.\name, "ax", @progbits
    .global \name
    .type \name, @function
\name:
    save_registers
    movw r28, r24
    clr r19

    ; sums = 0
    ldd r18, Y+JOB_ROWS
    movw r26, r28
    adiw r26, JOB_SUMS
1:
    .rept \bits / 8
    st X+, r19
    .endr
    dec r18
    brne 1b

    ldd r26, Y+JOB_X
    ldd r27, Y+JOB_X+1
    ldd r30, Y+JOB_WEIGHTS
    ldd r31, Y+JOB_WEIGHTS+1
    ldd r24, Y+JOB_INPUTS
    ldd r25, Y+JOB_INPUTS+1

    ; full turns
2:
    sbiw r24, \columns
    brcs 4f
    push r24
    push r25
    push r30
    push r31
    push r28
    push r29
    .irp register, \inputs
    ld r\register, X+
    .endr
    ldd r24, Y+JOB_INPUTS
    ldd r25, Y+JOB_INPUTS+1
    sbiw r24, \columns
    clt
    ldd r\counter, Y+JOB_ROWS
    adiw r28, JOB_SUMS
    rcall .Lrows_\name
    pop r29
    pop r28
    pop r31
    pop r30
    adiw r30, \columns
    pop r25
    pop r24
    rjmp 2b

    ; the short turn: its inputs go into the last registers, which have addresses in the data space
4:
    adiw r24, \columns
    breq 9f
    ldd r21, Y+JOB_INPUTS
    ldd r22, Y+JOB_INPUTS+1
    mov r20, r24
    ldi r18, \columns
    sub r18, r24
    movw r24, r28
    mov r28, r18
    clr r29
    adiw r28, 2
    mov r23, r20
5:
    ld r0, X+
    st Y+, r0
    dec r23
    brne 5b
    movw r28, r24
    ; entry = block + products left out * words
    ldi r24, \words
    mul r18, r24
    ldi r26, lo8(pm(.Lblock_\name))
    ldi r27, hi8(pm(.Lblock_\name))
    add r26, r0
    adc r27, r1
    ; stride = inputs - products of this turn
    mov r24, r21
    mov r25, r22
    sub r24, r20
    sbc r25, r19
    set
    ldd r\counter, Y+JOB_ROWS
    adiw r28, JOB_SUMS
    rcall .Lrows_\name
9:
    restore_registers_and_return

.Lrows_\name:
    brtc 6f
    rjmp 7f
6:
    ldd r20, Y+0
    ldd r21, Y+1
    ldd r22, Y+2
    .if \bits == 32
    ldd r23, Y+3
    .endif
.Lblock_\name:
    .irp register, \inputs
    load_byte \memory, r18
    mul r18, r\register
    add r20, r0
    adc r21, r1
    adc r22, r19
    .if \bits == 32
    adc r23, r19
    .endif
    .endr
    st Y+, r20
    st Y+, r21
    st Y+, r22
    .if \bits == 32
    st Y+, r23
    .endif
    add r30, r24
    adc r31, r25
    dec r\counter
    breq 8f
    brts 7f
    rjmp 6b
8:
    ret
7:
    ldd r20, Y+0
    ldd r21, Y+1
    ldd r22, Y+2
    .if \bits == 32
    ldd r23, Y+3
    .endif
    ; Z holds the weights, so the jump into the block is a return
    push r26
    push r27
#ifdef __AVR_3_BYTE_PC__
    ldi r18, hh8(pm(.Lblock_\name))
    push r18
#endif
    ret
    .size \name, . - \name
.endm

; r2:3 zero; r4..r7 correction; r8 zero point, r9 low, r10 high; r11 rows; r12 the fraction's guard byte
; r16:17 multiplier; r19 shift; r20..r23 accumulator
; X sums; Y outputs; Z channel records. t, the scaled accumulator: r24, r25, r14, r15
.macro finish_kernel name, memory, bits
    .section .text.\name, "ax", @progbits
    .global \name
    .type \name, @function
\name:
    save_registers
    push r24
    push r25
    movw r26, r24
    adiw r26, JOB_SUMS
    movw r30, r24
    clr r2
    clr r3
    ldd r4, Z+JOB_CORRECTION
    ldd r5, Z+JOB_CORRECTION+1
    ldd r6, Z+JOB_CORRECTION+2
    ldd r7, Z+JOB_CORRECTION+3
    ldd r8, Z+JOB_ZERO
    ldd r9, Z+JOB_LOW
    ldd r10, Z+JOB_HIGH
    ldd r11, Z+JOB_ROWS
    ldd r28, Z+JOB_Y
    ldd r29, Z+JOB_Y+1
    ldd r16, Z+JOB_CHANNELS
    ldd r17, Z+JOB_CHANNELS+1
    movw r30, r16

.Lrow_\name:
    load_byte \memory, r20
    load_byte \memory, r21
    load_byte \memory, r22
    .if \bits == 32
    load_byte \memory, r23
    .else
    adiw r30, 1
    .endif
    ld r16, X+
    add r20, r16
    ld r16, X+
    adc r21, r16
    ld r16, X+
    adc r22, r16
    .if \bits == 32
    ld r16, X+
    adc r23, r16
    .endif
    add r20, r4
    adc r21, r5
    adc r22, r6
    .if \bits == 32
    adc r23, r7
    .endif
    load_byte \memory, r16
    load_byte \memory, r17
    load_byte \memory, r19

    ; t = floor(accumulator * multiplier / 2^16), first as unsigned, then the sign is set right
    movw r24, r2
    movw r14, r2
    mul r20, r16
    mov r12, r1
    mul r21, r16
    add r12, r0
    adc r24, r1
    mul r20, r17
    add r12, r0
    adc r24, r1
    adc r25, r2
    mul r21, r17
    add r24, r0
    adc r25, r1
    adc r14, r2
    mul r22, r16
    add r24, r0
    adc r25, r1
    adc r14, r2
    mul r22, r17
    add r25, r0
    adc r14, r1
    .if \bits == 32
    adc r15, r2
    mul r23, r16
    add r25, r0
    adc r14, r1
    adc r15, r2
    mul r23, r17
    add r14, r0
    adc r15, r1
    sbrs r23, 7
    rjmp 2f
    sub r14, r16
    sbc r15, r17
    .else
    sbrs r22, 7
    rjmp 2f
    sub r25, r16
    sbc r14, r17
    .endif
2:
    ; floor((t + 2^(s-1)) / 2^s) is floor((floor(t / 2^(s-1)) + 1) / 2).
    ; |t| < 2^22 for 24-bit sums: three bytes hold it.
    subi r19, 1
    brcc 3f
    rjmp 6f
3:
    cpi r19, 8
    brsh 31f
    cpi r19, 6
    brsh 33f
    tst r19
    breq 5f
41:
    .if \bits == 32
    asr r15
    ror r14
    .else
    asr r14
    .endif
    ror r25
    ror r24
    dec r19
    brne 41b
    rjmp 5f
    ; eight places at once
31:
    mov r24, r25
    mov r25, r14
    .if \bits == 32
    mov r14, r15
    lsl r15
    sbc r15, r15
    .else
    lsl r14
    sbc r14, r14
    .endif
    subi r19, 8
    rjmp 3b
    ; six or seven places: two or one to the left, then eight at once
33:
    .if \bits == 32
    mov r12, r15
    lsl r12
    sbc r12, r12
    .else
    mov r15, r14
    lsl r15
    sbc r15, r15
    .endif
    sbrs r19, 0
    rjmp 34f
    rjmp 35f
34:
    lsl r24
    rol r25
    rol r14
    rol r15
    .if \bits == 32
    rol r12
    .endif
35:
    lsl r24
    rol r25
    rol r14
    rol r15
    .if \bits == 32
    rol r12
    .endif
    mov r24, r25
    mov r25, r14
    mov r14, r15
    .if \bits == 32
    mov r15, r12
    .endif
5:
    adiw r24, 1
    adc r14, r2
    .if \bits == 32
    adc r15, r2
    asr r15
    ror r14
    .else
    asr r14
    .endif
    ror r25
    ror r24
6:
    add r24, r8
    adc r25, r2
    adc r14, r2
    .if \bits == 32
    adc r15, r2
    .endif
    brmi 7f
    .if \bits == 32
    or r14, r15
    .endif
    or r25, r14
    brne 8f
    cp r10, r24
    brlo 8f
    cp r24, r9
    brlo 7f
    st Y+, r24
    dec r11
    breq 9f
    rjmp .Lrow_\name
7:
    st Y+, r9
    dec r11
    breq 9f
    rjmp .Lrow_\name
8:
    st Y+, r10
    dec r11
    breq 9f
    rjmp .Lrow_\name
9:
    pop r27
    pop r26
    adiw r26, JOB_CHANNELS
    st X+, r30
    st X+, r31
    adiw r26, JOB_Y - JOB_CHANNELS - 2
    st X+, r28
    st X+, r29
    restore_registers_and_return
    .size \name, . - \name
.endm

accumulate_kernel maille_accumulate_flash24, flash, 24, WORDS_24, 16, 23, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
accumulate_kernel maille_accumulate_ram24, ram, 24, WORDS_24, 16, 23, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
accumulate_kernel maille_accumulate_flash32, flash, 32, WORDS_32, 12, 16, 2,3,4,5,6,7,8,9,10,11,12,13
accumulate_kernel maille_accumulate_ram32, ram, 32, WORDS_32, 12, 16, 2,3,4,5,6,7,8,9,10,11,12,13

finish_kernel maille_finish_flash24, flash, 24
finish_kernel maille_finish_ram24, ram, 24
finish_kernel maille_finish_flash32, flash, 32
finish_kernel maille_finish_ram32, ram, 32

; The sum of count bytes.
    .section .text.maille_sum, "ax", @progbits
    .global maille_sum
    .type maille_sum, @function
maille_sum:
    movw r26, r24
    movw r30, r22
    clr r22
    clr r23
    clr r24
    clr r25
    sbiw r30, 8
    brcs 2f
1:
    .rept 8
    ld r0, X+
    add r22, r0
    adc r23, r1
    adc r24, r1
    .endr
    sbiw r30, 8
    brcc 1b
2:
    adiw r30, 8
    breq 4f
3:
    ld r0, X+
    add r22, r0
    adc r23, r1
    adc r24, r1
    sbiw r30, 1
    brne 3b
4:
    ret
    .size maille_sum, . - maille_sum

#endif
