; Depthwise convolution of one channel for AVR: y = requantise(bias + sum(weight * x)), x from a tile.
;
; One product is 10 cycles where all nine of 3 by 3 are unrolled: weight and input 2 each, MULSU 2 with
; the sign in the carry, which SBC spreads, 1, three additions 3. Other windows take 13. Signed weights
; save the sum of the inputs, which would have to be taken for each position.
;
; Requantisation: the multiplier comes shifted by 8 - s (or 16 - s), so that the result begins at a
; whole byte: three products more, and no shifting bit by bit. floor((t + 2^(s-1)) / 2^s) with
; t = floor(sum * m / 2^16) is floor(sum * m * 2^(8-s) / 2^24 + 1/2), exactly.
;
; void maille_depthwise_3x3(DepthwiseJob *job)   3 by 3 from a tile with rows of PITCH bytes
; void maille_depthwise_any(DepthwiseJob *job)   any window
; void maille_gather(from r24, to r22, columns r20, rows r18, step r16, from_gap r14, to_gap r12)

#if defined(__AVR__) && !defined(MAILLE_PLAIN_KERNELS)

; The places of DepthwiseJob's fields, as in kernels_depthwise.h
#define PITCH 18  // DEPTHWISE_PITCH
#define JOB_TILE 0
#define JOB_Y 2
#define JOB_ROWS 4
#define JOB_COLUMNS 5
#define JOB_ROW_GAP 6
#define JOB_KERNEL_WIDTH 7
#define JOB_KERNEL_HEIGHT 8
#define JOB_NEXT_COLUMN 9
#define JOB_NEXT_ROW 11
#define JOB_Y_COLUMN 13
#define JOB_Y_ROW 15
#define JOB_BIAS 17
#define JOB_MULTIPLIER 20
#define JOB_ZERO 23
#define JOB_LOW 24
#define JOB_HIGH 25
#define JOB_DROP 26
#define JOB_WEIGHTS 27

; r2 zero; r3 low, r4 high; r5 columns left; r6:7 to the next output; r10, r11, r15 multiplier
; r12, r13, r14 bias; r20..r22 sum; Y job; T set: a byte more to drop
; Of one product: r19 weight, r18 input. Of the scaled sum: r23, r24, r25, r18, r19 from its second byte on

.macro begin name, y
    .section .text.\name, "ax", @progbits
    .global \name
    .type \name, @function
\name:
    .irp register, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,28,29
    push r\register
    .endr
    movw r28, r24
    clr r2
    ldd r3, Y+JOB_LOW
    ldd r4, Y+JOB_HIGH
    ldd r6, Y+JOB_Y_COLUMN
    ldd r7, Y+JOB_Y_COLUMN+1
    ldd r8, Y+JOB_NEXT_COLUMN
    ldd r9, Y+JOB_NEXT_COLUMN+1
    ldd r10, Y+JOB_MULTIPLIER
    ldd r11, Y+JOB_MULTIPLIER+1
    ldd r15, Y+JOB_MULTIPLIER+2
    ldd r12, Y+JOB_BIAS
    ldd r13, Y+JOB_BIAS+1
    ldd r14, Y+JOB_BIAS+2
    ldd r18, Y+JOB_DROP
    bst r18, 0
.endm

.macro product weight
    mulsu r\weight, r18
    sbc r22, r2
    add r20, r0
    adc r21, r1
    adc r22, r2
.endm

; The sum to an output at X or Z. What is left of the row follows.
.macro scale_and_store name, pointer, zero
    ; five bytes from the second on of the unsigned product of three by three
    mul r22, r15
    movw r18, r0
    mul r21, r11
    movw r24, r0
    mul r20, r10
    mov r23, r1
    ; two by two bytes end here: nothing to carry on
    mul r21, r10
    add r23, r0
    adc r24, r1
    adc r25, r2
    mul r20, r11
    add r23, r0
    adc r24, r1
    adc r25, r2
    mul r22, r10
    add r24, r0
    adc r25, r1
    adc r18, r2
    adc r19, r2
    mul r20, r15
    add r24, r0
    adc r25, r1
    adc r18, r2
    adc r19, r2
    mul r22, r11
    add r25, r0
    adc r18, r1
    adc r19, r2
    mul r21, r15
    add r25, r0
    adc r18, r1
    adc r19, r2
    ; a negative sum was taken 2^24 too large
    sbrs r22, 7
    rjmp 1f
    sub r25, r10
    sbc r18, r11
    sbc r19, r15
1:
    brts .Ldrop_\name
    lsl r24
    adc r25, \zero
    adc r18, r2
    adc r19, r2
    brmi .Llow_\name
    or r18, r19
    brne .Lhigh_\name
.Lclamp_\name:
    cp r4, r25
    brlo .Lhigh_\name
    cp r25, r3
    brlo .Llow_\name
    st \pointer, r25
.Lstored_\name:
.endm

; The rarer ways through it.
.macro other_ends name, pointer, zero
.Llow_\name:
    st \pointer, r3
    rjmp .Lstored_\name
.Lhigh_\name:
    st \pointer, r4
    rjmp .Lstored_\name
.Ldrop_\name:
    lsl r25
    adc r18, \zero
    adc r19, r2
    brmi .Llow_\name
    brne .Lhigh_\name
    mov r25, r18
    rjmp .Lclamp_\name
.endm

.macro end_of_row name, tile_low, tile_high, y_low, y_high
    ldd r18, Y+JOB_NEXT_ROW
    ldd r19, Y+JOB_NEXT_ROW+1
    add \tile_low, r18
    adc \tile_high, r19
    ldd r18, Y+JOB_Y_ROW
    ldd r19, Y+JOB_Y_ROW+1
    add \y_low, r18
    adc \y_high, r19
    ldd r18, Y+JOB_ROWS
    dec r18
    std Y+JOB_ROWS, r18
    breq 1f
    rjmp .Lrow_\name
1:
    .irp register, 29,28,17,16,15,14,13,12,11,10,9,8,7,6,5,4,3,2
    pop r\register
    .endr
    clr r1
    ret
    .size \name, . - \name
.endm

; r8 to the next window; r9 zero point; r16, r17 the first two weights; X outputs; Z tile
    begin maille_depthwise_3x3
    .irp tap, 0, 1, 2, 3, 4, 5, 6, 7, 8
    ldd r18, Y+JOB_WEIGHTS+\tap
    subi r18, 0x80
    std Y+JOB_WEIGHTS+\tap, r18
    .endr
    ldd r9, Y+JOB_ZERO
    ldd r16, Y+JOB_WEIGHTS
    ldd r17, Y+JOB_WEIGHTS+1
    ldd r30, Y+JOB_TILE
    ldd r31, Y+JOB_TILE+1
    ldd r26, Y+JOB_Y
    ldd r27, Y+JOB_Y+1
.Lrow_maille_depthwise_3x3:
    ldd r5, Y+JOB_COLUMNS
.Lposition_3x3:
    ; the first product begins the sum, the bias comes last: a cycle less
    ld r18, Z
    mulsu r16, r18
    movw r20, r0
    sbc r22, r22
    ldd r18, Z+1
    product 17
    .irp tap, 2, 3, 4, 5, 6, 7, 8
    ldd r19, Y+JOB_WEIGHTS+\tap
    ldd r18, Z+\tap/3*PITCH+\tap%3
    product 19
    .endr
    add r20, r12
    adc r21, r13
    adc r22, r14
    scale_and_store maille_depthwise_3x3, X, r9
    add r26, r6
    adc r27, r7
    add r30, r8
    adc r31, r2
    dec r5
    breq .Lrow_end_3x3
    rjmp .Lposition_3x3
    other_ends maille_depthwise_3x3, X, r9
.Lrow_end_3x3:
    end_of_row maille_depthwise_3x3, r30, r31, r26, r27

; r8:9 to the next window; r16 row gap; r17 zero point; X tile; Z outputs
    begin maille_depthwise_any
    ldd r18, Y+JOB_KERNEL_HEIGHT
    ldd r19, Y+JOB_KERNEL_WIDTH
    mul r18, r19
    mov r19, r0
    movw r30, r28
    adiw r30, JOB_WEIGHTS
1:
    ld r18, Z
    subi r18, 0x80
    st Z+, r18
    dec r19
    brne 1b
    ldd r16, Y+JOB_ROW_GAP
    ldd r17, Y+JOB_ZERO
    ldd r26, Y+JOB_TILE
    ldd r27, Y+JOB_TILE+1
    ldd r30, Y+JOB_Y
    ldd r31, Y+JOB_Y+1
.Lrow_maille_depthwise_any:
    ldd r5, Y+JOB_COLUMNS
.Lposition_any:
    movw r20, r12
    mov r22, r14
    ldd r24, Y+JOB_KERNEL_HEIGHT
    ldd r23, Y+JOB_KERNEL_WIDTH
    push r30
    push r31
    movw r30, r28
    adiw r30, JOB_WEIGHTS
2:
    mov r25, r23
3:
    ld r19, Z+
    ld r18, X+
    product 19
    dec r25
    brne 3b
    dec r24
    breq 4f
    add r26, r16
    adc r27, r2
    rjmp 2b
4:
    pop r31
    pop r30
    scale_and_store maille_depthwise_any, Z, r17
    add r30, r6
    adc r31, r7
    add r26, r8
    adc r27, r9
    dec r5
    breq .Lrow_end_any
    rjmp .Lposition_any
    other_ends maille_depthwise_any, Z, r17
.Lrow_end_any:
    end_of_row maille_depthwise_any, r26, r27, r30, r31

    .section .text.maille_gather, "ax", @progbits
    .global maille_gather
    .type maille_gather, @function
maille_gather:
    movw r26, r24
    movw r30, r22
    ; what four do not divide first, then four at a time
    mov r21, r20
    andi r21, 3
    mov r25, r21
    lsr r20
    lsr r20
1:
    mov r21, r25
    tst r21
    breq 3f
2:
    ld r0, X
    add r26, r16
    adc r27, r17
    st Z+, r0
    dec r21
    brne 2b
3:
    mov r21, r20
    subi r21, 1
    brcs 5f
4:
    .rept 4
    ld r0, X
    add r26, r16
    adc r27, r17
    st Z+, r0
    .endr
    subi r21, 1
    brcc 4b
5:
    add r26, r14
    adc r27, r15
    add r30, r12
    adc r31, r1
    dec r18
    brne 1b
    ret
    .size maille_gather, . - maille_gather

#endif
