; Dense kernels for AVR: y[o] = requantise(bias[o] + sum(stored * x) - 128 * sum(x)).
;
; One multiply-accumulate from flash is 10 cycles: LPM 3, LD 2, MUL 2, three additions 3. Sixteen
; stand in a row; a row whose length is no multiple of 16 is entered in the middle. 24-bit sums are
; taken modulo 2^24, which TINY.md allows where a layer's flag says so; the others modulo 2^32.
;
; void NAME(DenseJob *job), job as in kernels.h. Interrupts stay on throughout.

#ifdef __AVR__
#include <avr/io.h>

#define JOB_WEIGHTS 0
#define JOB_CHANNELS 2
#define JOB_X 4
#define JOB_Y 6
#define JOB_INPUTS 8
#define JOB_OUTPUTS 10
#define JOB_CORRECTION 12
#define JOB_ZERO 16
#define JOB_LOW 17
#define JOB_HIGH 18

#define UNROLLED 16
#define MAC_WORDS_24 6
#define MAC_WORDS_32 7

; Registers that live through a row:
;   r2 and r3 zero; r4:5 first x; r6:7 blocks of a row; r8:9 weights; r10:11 channel record
;   r12:13 outputs left; r14:15 where a row is entered; Y the job

.macro load_byte memory, register
    .ifc \memory, flash
    lpm \register, Z+
    .else
    ld \register, Z+
    .endif
.endm

.macro multiply_accumulate memory, bits
    load_byte \memory, r18
    ld r19, X+
    mul r18, r19
    add r20, r0
    adc r21, r1
    adc r22, r2
    .if \bits == 32
    adc r23, r2
    .endif
.endm

.macro dense_kernel name, memory, bits, mac_words
    .section .lowtext.\name, "ax", @progbits ; below 128 KiB: one jump address of 16 bits
    .global \name
    .type \name, @function
\name:
    push r2
    push r3
    push r4
    push r5
    push r6
    push r7
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    push r16
    push r17
    push r28
    push r29
    movw r28, r24
    clr r2
    clr r3
    ldd r4, Y+JOB_X
    ldd r5, Y+JOB_X+1
    ldd r8, Y+JOB_WEIGHTS
    ldd r9, Y+JOB_WEIGHTS+1
    ldd r10, Y+JOB_CHANNELS
    ldd r11, Y+JOB_CHANNELS+1
    ldd r12, Y+JOB_OUTPUTS
    ldd r13, Y+JOB_OUTPUTS+1

    ; blocks = ceil(inputs / 16); the first block starts (-inputs mod 16) products late
    ldd r24, Y+JOB_INPUTS
    ldd r25, Y+JOB_INPUTS+1
    mov r18, r24
    neg r18
    andi r18, UNROLLED - 1
    adiw r24, UNROLLED - 1
    lsr r25
    ror r24
    lsr r25
    ror r24
    lsr r25
    ror r24
    lsr r25
    ror r24
    movw r6, r24
    ldi r19, \mac_words
    mul r18, r19
    ldi r24, lo8(pm(.Lblock_\name))
    ldi r25, hi8(pm(.Lblock_\name))
    add r24, r0
    adc r25, r1
    movw r14, r24

.Lrow_\name:
    movw r30, r10
    load_byte \memory, r20
    load_byte \memory, r21
    load_byte \memory, r22
    load_byte \memory, r23
    movw r10, r30
    ldd r18, Y+JOB_CORRECTION
    add r20, r18
    ldd r18, Y+JOB_CORRECTION+1
    adc r21, r18
    ldd r18, Y+JOB_CORRECTION+2
    adc r22, r18
    .if \bits == 32
    ldd r18, Y+JOB_CORRECTION+3
    adc r23, r18
    .endif
    movw r26, r4
    movw r30, r8
    movw r24, r6
    ; Z holds the weights, so the jump into the row is a return
    push r14
    push r15
#ifdef __AVR_3_BYTE_PC__
    ldi r18, hh8(pm(.Lblock_\name))
    push r18
#endif
    ret

.Lblock_\name:
    .rept UNROLLED
    multiply_accumulate \memory, \bits
    .endr
    sbiw r24, 1
    breq 1f
    rjmp .Lblock_\name
1:
    movw r8, r30
    movw r30, r10
    load_byte \memory, r16
    load_byte \memory, r17
    load_byte \memory, r19
    movw r10, r30

    ; r27..r24 = floor(accumulator * multiplier / 2^16), as unsigned, then the sign is set right
    movw r24, r2
    movw r26, r2
    mul r20, r16
    mov r18, r1
    mul r21, r16
    add r18, r0
    adc r24, r1
    mul r20, r17
    add r18, r0
    adc r24, r1
    adc r25, r2
    mul r21, r17
    add r24, r0
    adc r25, r1
    adc r26, r2
    mul r22, r16
    add r24, r0
    adc r25, r1
    adc r26, r2
    mul r22, r17
    add r25, r0
    adc r26, r1
    .if \bits == 32
    adc r27, r2
    mul r23, r16
    add r25, r0
    adc r26, r1
    adc r27, r2
    mul r23, r17
    add r26, r0
    adc r27, r1
    sbrs r23, 7
    rjmp 2f
    sub r26, r16
    sbc r27, r17
    .else
    sbrs r22, 7
    rjmp 2f
    sub r25, r16
    sbc r26, r17
    .endif
2:
    ; floor((t + 2^(s-1)) / 2^s) is floor((floor(t / 2^(s-1)) + 1) / 2).
    ; |t| < 2^22 for 24-bit sums: three bytes hold it.
    subi r19, 1
    brcs 6f
    rjmp 4f
3:
    mov r24, r25
    mov r25, r26
    .if \bits == 32
    mov r26, r27
    lsl r27
    sbc r27, r27
    .else
    lsl r26
    sbc r26, r26
    .endif
4:
    subi r19, 8
    brsh 3b
    subi r19, -8
    breq 5f
41:
    .if \bits == 32
    asr r27
    ror r26
    .else
    asr r26
    .endif
    ror r25
    ror r24
    dec r19
    brne 41b
5:
    adiw r24, 1
    adc r26, r2
    .if \bits == 32
    adc r27, r2
    asr r27
    ror r26
    .else
    asr r26
    .endif
    ror r25
    ror r24
6:
    ldd r18, Y+JOB_ZERO
    add r24, r18
    adc r25, r2
    adc r26, r2
    .if \bits == 32
    adc r27, r2
    .endif
    ldd r18, Y+JOB_LOW
    brmi 7f
    .if \bits == 32
    or r26, r27
    .endif
    or r25, r26
    brne 8f
    cp r24, r18
    brlo 7f
    ldd r18, Y+JOB_HIGH
    cp r18, r24
    brlo 7f
    mov r18, r24
    rjmp 7f
8:
    ldd r18, Y+JOB_HIGH
7:
    ldd r26, Y+JOB_Y
    ldd r27, Y+JOB_Y+1
    st X+, r18
    std Y+JOB_Y, r26
    std Y+JOB_Y+1, r27
    movw r24, r12
    sbiw r24, 1
    movw r12, r24
    breq 9f
    rjmp .Lrow_\name
9:
    clr r1
    pop r29
    pop r28
    pop r17
    pop r16
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop r7
    pop r6
    pop r5
    pop r4
    pop r3
    pop r2
    ret
    .size \name, . - \name
.endm

dense_kernel maille_dense_flash24, flash, 24, MAC_WORDS_24
dense_kernel maille_dense_flash32, flash, 32, MAC_WORDS_32
dense_kernel maille_dense_ram24, ram, 24, MAC_WORDS_24
dense_kernel maille_dense_ram32, ram, 32, MAC_WORDS_32

; uint32_t maille_sum(const uint8_t *x, uint16_t count): the sum of count bytes.
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
