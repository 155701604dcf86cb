"""The inner loops for interpreters without viper; made by scripts/make_python_kernels.

See kernels_viper.py: the same loops, byte for byte the same results.
"""

VIPER = False


def dense(arena, model, p):
    """source, target, inputs, outputs, zero, low, high, channels, weights."""
    source = p[0]
    out = p[1]
    inputs = p[2]
    zero = p[4]
    low = p[5]
    high = p[6]
    c = p[7]
    w = p[8]
    last = out + p[3]
    total = 0
    at = source
    end = source + inputs
    while at < end:
        total += arena[at]
        at += 1
    total *= 128
    fours = source + (inputs & 0xFFFC)
    while out < last:
        acc = 0 - total
        at = source
        while at < fours:
            acc += (
                arena[at] * model[w]
                + arena[at + 1] * model[w + 1]
                + arena[at + 2] * model[w + 2]
                + arena[at + 3] * model[w + 3]
            )
            at += 4
            w += 4
        while at < end:
            acc += arena[at] * model[w]
            at += 1
            w += 1
        acc += model[c] | model[c + 1] << 8 | model[c + 2] << 16
        acc += ((model[c + 3] ^ 128) - 128) << 24
        m = model[c + 4] | model[c + 5] << 8
        s = model[c + 6]
        t = (acc >> 16) * m + (((acc & 65535) * m) >> 16)
        if s:
            t = (t + (1 << (s - 1))) >> s
        t += zero
        if t < low:
            t = low
        if t > high:
            t = high
        arena[out] = t
        out += 1
        c += 7


def conv2d(arena, model, p):
    """Window of 14, pad value, zero, low, high, channels, weights."""
    source = p[0]
    out = p[1]
    input_height = p[2]
    input_width = p[3]
    input_channels = p[4]
    output_height = p[5]
    output_width = p[6]
    output_channels = p[7]
    kernel_height = p[8]
    kernel_width = p[9]
    stride_height = p[10]
    stride_width = p[11]
    pad_top = p[12]
    pad_left = p[13]
    pad = p[14]
    zero = p[15]
    low = p[16]
    high = p[17]
    run = kernel_width * input_channels
    y = 0
    while y < output_height:
        top = y * stride_height - pad_top
        x = 0
        while x < output_width:
            left = x * stride_width - pad_left
            first = 0
            if left < 0:
                first = 0 - left
            beyond = kernel_width
            if left + kernel_width > input_width:
                beyond = input_width - left
            before = first * input_channels
            inside = (beyond - first) * input_channels
            start = source + (left + first) * input_channels
            total = 0
            k = 0
            while k < kernel_height:
                row = top + k
                if row >= 0 and row < input_height:
                    at = start + row * input_width * input_channels
                    end = at + inside
                    while at < end:
                        total += arena[at]
                        at += 1
                    total += pad * (run - inside)
                else:
                    total += pad * run
                k += 1
            total *= 128
            c = p[18]
            w = p[19]
            last = out + output_channels
            while out < last:
                acc = 0 - total
                k = 0
                while k < kernel_height:
                    row = top + k
                    end = w + run
                    if row >= 0 and row < input_height:
                        stop = w + before
                        while w < stop:
                            acc += pad * model[w]
                            w += 1
                        at = start + row * input_width * input_channels
                        stop = w + (inside & 0xFFFFFFC)
                        while w < stop:
                            acc += (
                                arena[at] * model[w]
                                + arena[at + 1] * model[w + 1]
                                + arena[at + 2] * model[w + 2]
                                + arena[at + 3] * model[w + 3]
                            )
                            at += 4
                            w += 4
                        stop += inside & 3
                        while w < stop:
                            acc += arena[at] * model[w]
                            at += 1
                            w += 1
                    while w < end:
                        acc += pad * model[w]
                        w += 1
                    k += 1
                acc += model[c] | model[c + 1] << 8 | model[c + 2] << 16
                acc += ((model[c + 3] ^ 128) - 128) << 24
                m = model[c + 4] | model[c + 5] << 8
                s = model[c + 6]
                t = (acc >> 16) * m + (((acc & 65535) * m) >> 16)
                if s:
                    t = (t + (1 << (s - 1))) >> s
                t += zero
                if t < low:
                    t = low
                if t > high:
                    t = high
                arena[out] = t
                out += 1
                c += 7
            x += 1
        y += 1


def depthwise(arena, model, p):
    """Window of 14, pad value, zero, low, high, channels, weights."""
    source = p[0]
    out = p[1]
    input_height = p[2]
    input_width = p[3]
    input_channels = p[4]
    output_height = p[5]
    output_width = p[6]
    output_channels = p[7]
    kernel_height = p[8]
    kernel_width = p[9]
    stride_height = p[10]
    stride_width = p[11]
    pad_top = p[12]
    pad_left = p[13]
    pad = p[14]
    zero = p[15]
    low = p[16]
    high = p[17]
    copies = output_channels // input_channels
    y = 0
    while y < output_height:
        top = y * stride_height - pad_top
        x = 0
        while x < output_width:
            left = x * stride_width - pad_left
            c = p[18]
            w = p[19]
            channel = 0
            while channel < output_channels:
                start = source + channel // copies
                acc = 0
                k = 0
                while k < kernel_height:
                    row = top + k
                    column = left
                    end = left + kernel_width
                    if row >= 0 and row < input_height:
                        at = start + (row * input_width + left) * input_channels
                        while column < end:
                            if column >= 0 and column < input_width:
                                acc += arena[at] * (model[w] - 128)
                            else:
                                acc += pad * (model[w] - 128)
                            at += input_channels
                            column += 1
                            w += 1
                    else:
                        while column < end:
                            acc += pad * (model[w] - 128)
                            column += 1
                            w += 1
                    k += 1
                acc += model[c] | model[c + 1] << 8 | model[c + 2] << 16
                acc += ((model[c + 3] ^ 128) - 128) << 24
                m = model[c + 4] | model[c + 5] << 8
                s = model[c + 6]
                t = (acc >> 16) * m + (((acc & 65535) * m) >> 16)
                if s:
                    t = (t + (1 << (s - 1))) >> s
                t += zero
                if t < low:
                    t = low
                if t > high:
                    t = high
                arena[out] = t
                out += 1
                c += 7
                channel += 1
            x += 1
        y += 1


def max_pool(arena, model, p):
    """Window of 14."""
    source = p[0]
    out = p[1]
    input_height = p[2]
    input_width = p[3]
    input_channels = p[4]
    output_height = p[5]
    output_width = p[6]
    output_channels = p[7]
    kernel_height = p[8]
    kernel_width = p[9]
    stride_height = p[10]
    stride_width = p[11]
    pad_top = p[12]
    pad_left = p[13]
    y = 0
    while y < output_height:
        top = y * stride_height - pad_top
        x = 0
        while x < output_width:
            left = x * stride_width - pad_left
            channel = 0
            while channel < output_channels:
                largest = 0
                k = 0
                while k < kernel_height:
                    row = top + k
                    if row >= 0 and row < input_height:
                        column = left
                        end = left + kernel_width
                        at = source + (row * input_width + left) * input_channels + channel
                        while column < end:
                            if column >= 0 and column < input_width:
                                t = arena[at]
                                if t > largest:
                                    largest = t
                            at += input_channels
                            column += 1
                    k += 1
                arena[out] = largest
                out += 1
                channel += 1
            x += 1
        y += 1


def average_pool(arena, model, p):
    """Window of 14, pad value, zero, low, high, channels (one record)."""
    source = p[0]
    out = p[1]
    input_height = p[2]
    input_width = p[3]
    input_channels = p[4]
    output_height = p[5]
    output_width = p[6]
    output_channels = p[7]
    kernel_height = p[8]
    kernel_width = p[9]
    stride_height = p[10]
    stride_width = p[11]
    pad_top = p[12]
    pad_left = p[13]
    pad = p[14]
    zero = p[15]
    low = p[16]
    high = p[17]
    c = p[18]
    y = 0
    while y < output_height:
        top = y * stride_height - pad_top
        x = 0
        while x < output_width:
            left = x * stride_width - pad_left
            channel = 0
            while channel < output_channels:
                acc = 0
                k = 0
                while k < kernel_height:
                    row = top + k
                    if row >= 0 and row < input_height:
                        column = left
                        end = left + kernel_width
                        at = source + (row * input_width + left) * input_channels + channel
                        while column < end:
                            if column >= 0 and column < input_width:
                                acc += arena[at]
                            else:
                                acc += pad
                            at += input_channels
                            column += 1
                    else:
                        acc += pad * kernel_width
                    k += 1
                acc += model[c] | model[c + 1] << 8 | model[c + 2] << 16
                acc += ((model[c + 3] ^ 128) - 128) << 24
                m = model[c + 4] | model[c + 5] << 8
                s = model[c + 6]
                t = (acc >> 16) * m + (((acc & 65535) * m) >> 16)
                if s:
                    t = (t + (1 << (s - 1))) >> s
                t += zero
                if t < low:
                    t = low
                if t > high:
                    t = high
                arena[out] = t
                out += 1
                channel += 1
            x += 1
        y += 1


def add(arena, model, p):
    """source, target, second source, count, weight, second weight, zero, low, high, channels."""
    source = p[0]
    out = p[1]
    second = p[2]
    last = out + p[3]
    weight = p[4]
    second_weight = p[5]
    zero = p[6]
    low = p[7]
    high = p[8]
    c = p[9]
    while out < last:
        acc = arena[source] * weight + arena[second] * second_weight
        source += 1
        second += 1
        acc += model[c] | model[c + 1] << 8 | model[c + 2] << 16
        acc += ((model[c + 3] ^ 128) - 128) << 24
        m = model[c + 4] | model[c + 5] << 8
        s = model[c + 6]
        t = (acc >> 16) * m + (((acc & 65535) * m) >> 16)
        if s:
            t = (t + (1 << (s - 1))) >> s
        t += zero
        if t < low:
            t = low
        if t > high:
            t = high
        arena[out] = t
        out += 1


def lookup(arena, model, p):
    """source, target, count, table."""
    source = p[0]
    out = p[1]
    last = out + p[2]
    table = p[3]
    while out < last:
        arena[out] = model[table + arena[source]]
        source += 1
        out += 1


def arg_max(arena, model, p):
    """source, target, element type, count."""
    at = p[0]
    kind = p[2]
    count = p[3]
    best = 0
    largest = 0
    index = 0
    while index < count:
        if kind == 0:
            t = arena[at]
            at += 1
        elif kind == 1:
            t = arena[at] | ((arena[at + 1] ^ 128) - 128) << 8
            at += 2
        else:
            t = arena[at] | arena[at + 1] << 8 | arena[at + 2] << 16
            t |= ((arena[at + 3] ^ 128) - 128) << 24
            at += 4
        if index == 0 or t > largest:
            largest = t
            best = index
        index += 1
    arena[p[1]] = best


def softmax(arena, model, p):
    """source, target, count, table, entries."""
    source = p[0]
    out = p[1]
    count = p[2]
    table = p[3]
    entries = p[4]
    end = source + count
    largest = 0
    at = source
    while at < end:
        t = arena[at]
        if t > largest:
            largest = t
        at += 1
    total = 0
    at = source
    while at < end:
        t = largest - arena[at]
        if t < entries:
            t = table + t + t
            total += model[t] | model[t + 1] << 8
        at += 1
    half = total // 2
    at = source
    while at < end:
        t = largest - arena[at]
        share = 0
        if t < entries:
            t = table + t + t
            share = model[t] | model[t + 1] << 8
        arena[out] = (255 * share + half) // total
        at += 1
        out += 1


def forest(arena, model, p):
    """source, target, outputs, bases, roots, trees, nodes, leaves."""
    source = p[0]
    target = p[1]
    outputs = p[2]
    bases = p[3]
    roots = p[4]
    trees = p[5]
    nodes = p[6]
    leaves = p[7]
    at = 0
    while at < 4 * outputs:
        arena[target + at] = model[bases + at]
        at += 1
    while trees > 0:
        node = nodes + (model[roots] | model[roots + 1] << 8) * 5
        feature = model[node]
        threshold = model[node + 1] | ((model[node + 2] ^ 128) - 128) << 8
        while feature != 255:
            at = source + feature + feature
            t = arena[at] | ((arena[at + 1] ^ 128) - 128) << 8
            if t <= threshold:
                node += 5
            else:
                node += (model[node + 3] | model[node + 4] << 8) * 5
            feature = model[node]
            threshold = model[node + 1] | ((model[node + 2] ^ 128) - 128) << 8
        row = leaves + (threshold & 65535) * outputs * 2
        out = target
        index = 0
        while index < outputs:
            # In two's complement modulo 2^32, so that no sign is needed.
            t = arena[out] | arena[out + 1] << 8 | arena[out + 2] << 16 | arena[out + 3] << 24
            t += model[row] | ((model[row + 1] ^ 128) - 128) << 8
            arena[out] = t & 255
            arena[out + 1] = t >> 8 & 255
            arena[out + 2] = t >> 16 & 255
            arena[out + 3] = t >> 24 & 255
            out += 4
            row += 2
            index += 1
        roots += 2
        trees -= 1
