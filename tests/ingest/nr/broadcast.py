"""The PBCH written down from the standard, bit by bit: payload, CRC, polar code, scrambling (3GPP TS 38.212 V17 clause
7.1, 38.211 clause 7.3.3).

Nothing here shares code or tables with `ingest.nr`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

RELIABILITY_512 = (
    *(0, 1, 2, 4, 8, 16, 32, 3, 5, 64, 9, 6, 17, 10, 18, 128, 12, 33, 65, 20, 256, 34, 24, 36, 7, 129, 66, 11, 40),
    *(68, 130, 19, 13, 48, 14, 72, 257, 21, 132, 35, 258, 26, 80, 37, 25, 22, 136, 260, 264, 38, 96, 67, 41, 144),
    *(28, 69, 42, 49, 74, 272, 160, 288, 192, 70, 44, 131, 81, 50, 73, 15, 320, 133, 52, 23, 134, 384, 76, 137, 82),
    *(56, 27, 97, 39, 259, 84, 138, 145, 261, 29, 43, 98, 88, 140, 30, 146, 71, 262, 265, 161, 45, 100, 51, 148, 46),
    *(75, 266, 273, 104, 162, 53, 193, 152, 77, 164, 268, 274, 54, 83, 57, 112, 135, 78, 289, 194, 85, 276, 58, 168),
    *(139, 99, 86, 60, 280, 89, 290, 196, 141, 101, 147, 176, 142, 321, 31, 200, 90, 292, 322, 263, 149, 102, 105),
    *(304, 296, 163, 92, 47, 267, 385, 324, 208, 386, 150, 153, 165, 106, 55, 328, 113, 154, 79, 269, 108, 224, 166),
    *(195, 270, 275, 291, 59, 169, 114, 277, 156, 87, 197, 116, 170, 61, 281, 278, 177, 293, 388, 91, 198, 172, 120),
    *(201, 336, 62, 282, 143, 103, 178, 294, 93, 202, 323, 392, 297, 107, 180, 151, 209, 284, 94, 204, 298, 400),
    *(352, 325, 155, 210, 305, 300, 109, 184, 115, 167, 225, 326, 306, 157, 329, 110, 117, 212, 171, 330, 226, 387),
    *(308, 216, 416, 271, 279, 158, 337, 118, 332, 389, 173, 121, 199, 179, 228, 338, 312, 390, 174, 393, 283, 122),
    *(448, 353, 203, 63, 340, 394, 181, 295, 285, 232, 124, 205, 182, 286, 299, 354, 211, 401, 185, 396, 344, 240),
    *(206, 95, 327, 402, 356, 307, 301, 417, 213, 186, 404, 227, 418, 302, 360, 111, 331, 214, 309, 188, 449, 217),
    *(408, 229, 159, 420, 310, 333, 119, 339, 218, 368, 230, 391, 313, 450, 334, 233, 175, 123, 341, 220, 314, 424),
    *(395, 355, 287, 183, 234, 125, 342, 316, 241, 345, 452, 397, 403, 207, 432, 357, 187, 236, 126, 242, 398, 346),
    *(456, 358, 405, 303, 244, 189, 361, 215, 348, 419, 406, 464, 362, 409, 219, 311, 421, 410, 231, 248, 369, 190),
    *(364, 335, 480, 315, 221, 370, 422, 425, 451, 235, 412, 343, 372, 317, 222, 426, 453, 237, 433, 347, 243, 454),
    *(318, 376, 428, 238, 359, 457, 399, 434, 349, 245, 458, 363, 127, 191, 407, 436, 465, 246, 350, 460, 249, 411),
    *(365, 440, 374, 423, 466, 250, 371, 481, 413, 366, 468, 429, 252, 373, 482, 427, 414, 223, 472, 455, 377, 435),
    *(319, 484, 430, 488, 239, 378, 459, 437, 380, 461, 496, 351, 467, 438, 251, 462, 442, 441, 469, 247, 367, 253),
    *(375, 444, 470, 483, 415, 485, 473, 474, 254, 379, 431, 489, 486, 476, 439, 490, 463, 381, 497, 492, 443, 382),
    *(498, 445, 471, 500, 446, 475, 487, 504, 255, 477, 491, 478, 383, 493, 499, 502, 494, 501, 447, 505, 506, 479),
    *(508, 495, 503, 507, 509, 510, 511),
)
"""Table 5.3.1.2-1 of 38.212, its numbers below 512: Q_0^511."""

INPUT_PATTERN = """
  0   2   4   7   9  14  19  20  24  25  26  28  31  34  42  45  49  50  51  53  54  56  58  59  61  62  65  66
 67  69  70  71  72  76  77  81  82  83  87  88  89  91  93  95  98 101 104 106 108 110 111 113 115 118 119 120
122 123 126 127 129 132 134 138 139 140   1   3   5   8  10  15  21  27  29  32  35  43  46  52  55  57  60  63
 68  73  78  84  90  92  94  96  99 102 105 107 109 112 114 116 121 124 128 130 133 135 141   6  11  16  22  30
 33  36  44  47  64  74  79  85  97 100 103 117 125 131 136 142  12  17  23  37  48  75  80  86 137 143  13  18
 38 144  39 145  40 146  41 147 148 149 150 151 152 153 154 155 156 157 158 159 160 161 162 163
"""
"""Table 5.3.1.1-1."""

SUB_BLOCK_PATTERN = "0 1 2 4 3 5 6 7 8 16 9 17 10 18 11 19 12 20 13 21 14 22 15 23 24 25 26 28 27 29 30 31"
"""Table 5.4.1.1-1."""

PAYLOAD_PATTERN = "16 23 18 17 8 30 10 6 24 7 0 5 3 2 1 4 9 11 12 13 14 15 19 20 21 22 25 26 27 28 29 31"
"""Table 7.1.1-1."""


@dataclass(frozen=True)
class Broadcast:
    """What one PBCH says. Field by field the MIB of 38.331, and what the physical layer adds to it.

    common_30_or_120: subCarrierSpacingCommon. position_3: dmrs-TypeA-Position. ssb_index: only told where l_max is 64.
    """

    sfn: int = 0
    half_frame: int = 0
    common_30_or_120: bool = True
    k_ssb: int = 0
    position_3: bool = False
    pdcch_config_sib1: int = 0
    not_barred: bool = True
    reselection_not_allowed: bool = False
    l_max: int = 8
    ssb_index: int = 0


def bits_of(number: int, count: int) -> list[int]:
    return [(number >> (count - 1 - place)) & 1 for place in range(count)]


def gold(c_init: int, length: int) -> list[int]:
    """c(n), 38.211 clause 5.2.1."""
    x1, x2 = [1] + [0] * 30, [(c_init >> bit) & 1 for bit in range(31)]
    for n in range(1600 + length):
        x1.append((x1[n + 3] + x1[n]) % 2)
        x2.append((x2[n + 3] + x2[n + 2] + x2[n + 1] + x2[n]) % 2)
    return [(x1[n + 1600] + x2[n + 1600]) % 2 for n in range(length)]


def payload(said: Broadcast) -> list[int]:
    """a_0 … a_31: the MIB and eight bits more, interleaved (clause 7.1.1)."""
    mib = [0, *bits_of(said.sfn >> 4, 6), int(said.common_30_or_120), *bits_of(said.k_ssb % 16, 4)]
    mib += [int(said.position_3), *bits_of(said.pdcch_config_sib1, 8), int(said.not_barred)]
    mib += [int(said.reselection_not_allowed), 0]
    extra = bits_of(said.ssb_index >> 3, 3) if said.l_max == 64 else [said.k_ssb >> 4, 0, 0]
    a_bar = [*mib, *bits_of(said.sfn % 16, 4), said.half_frame, *extra]
    assert len(mib) == 24
    assert len(a_bar) == 32
    places = [int(place) for place in PAYLOAD_PATTERN.split()]
    a = [0] * 32
    j_sfn, j_hrf, j_ssb, j_other = 0, 10, 11, 14
    for i in range(32):
        if 1 <= i <= 6 or 24 <= i <= 27:
            a[places[j_sfn]] = a_bar[i]
            j_sfn += 1
        elif i == 28:
            a[places[j_hrf]] = a_bar[i]
        elif i >= 29:
            a[places[j_ssb]] = a_bar[i]
            j_ssb += 1
        else:
            a[places[j_other]] = a_bar[i]
            j_other += 1
    return a


def scrambled_payload(said: Broadcast, pci: int) -> list[int]:
    """a'_i of clause 7.1.2."""
    a = payload(said)
    places = [int(place) for place in PAYLOAD_PATTERN.split()]
    bare = {places[7], places[8], places[10]}  # the third and second lowest bits of the frame number, the half frame
    if said.l_max == 64:
        bare |= {places[11], places[12], places[13]}
    m = 32 - (6 if said.l_max == 64 else 3)
    v = 2 * ((said.sfn >> 2) & 1) + ((said.sfn >> 1) & 1)
    c = gold(pci, 4 * 32)
    scrambled, j = [], 0
    for i in range(32):
        s = 0
        if i not in bare:
            s = c[j + v * m]
            j += 1
        scrambled.append((a[i] + s) % 2)
    return scrambled


def crc24c(a: list[int]) -> list[int]:
    """Clause 5.1, by long division in integers."""
    generator = sum(1 << power for power in (24, 23, 21, 20, 17, 15, 13, 12, 8, 4, 2, 1, 0))
    rest = int("".join(map(str, a)), 2) << 24
    while rest.bit_length() > 24:
        rest ^= generator << (rest.bit_length() - 25)
    return bits_of(rest, 24)


def polar(b: list[int], count: int = 864) -> list[int]:
    """Clauses 5.3.1 and 5.4.1 for N = 512 without parity-check bits, E >= N."""
    k, n = len(b), 512
    pattern = [number - (164 - k) for number in map(int, INPUT_PATTERN.split()) if number >= 164 - k]
    interleaved = [b[place] for place in pattern]
    information = set(RELIABILITY_512[n - k :])
    waiting = iter(interleaved)
    u = [next(waiting) if place in information else 0 for place in range(n)]
    # d = u G, G the ninth Kronecker power of [[1, 0], [1, 1]]: G[i, j] = 1 where every bit of j is in i.
    d = [sum(u[i] for i in range(n) if u[i] and i & j == j) % 2 for j in range(n)]
    sub_blocks = [int(number) for number in SUB_BLOCK_PATTERN.split()]
    y = [d[sub_blocks[32 * place // n] * (n // 32) + place % (n // 32)] for place in range(n)]
    return [y[place % n] for place in range(count)]


@cache
def pbch_symbols(said: Broadcast, pci: int, ssb_index: int) -> tuple[complex, ...]:
    """The 432 modulated symbols of the SSB `ssb_index` of its half frame."""
    a = scrambled_payload(said, pci)
    b = polar(a + crc24c(a))
    v = ssb_index % 4 if said.l_max == 4 else ssb_index % 8
    c = gold(pci, 8 * 864)
    scrambled = [(bit + c[place + v * 864]) % 2 for place, bit in enumerate(b)]
    return tuple(
        ((1 - 2 * scrambled[2 * i]) + 1j * (1 - 2 * scrambled[2 * i + 1])) / 2**0.5 for i in range(len(b) // 2)
    )
