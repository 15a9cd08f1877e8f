/* tokenizer.c: text to token ids and back, as the tokenizers library does with SmolVLM2's tokenizer.json.

     text                        "<image>It's 42  lynxes"          any bytes
       |  UTF-8                                                    what is not UTF-8 becomes U+FFFD
       |  added tokens           <image> | It's 42  lynxes         cut out first: the leftmost, of these the longest;
       |                                                           then those that are "normalized", in what is left
       |  Digits                 It's_ | 4 | 2 | __lynxes          every numeric character alone (_ is a space here)
       |  GPT-2 pattern          It | 's | _ | 4 | 2 | _ | _lynxes
       |  bytes                  ... | _ l y n x e s               one symbol a byte: the id of that single byte
       |  merges by rank         ... | _ l y n x es                rank 14
       |                         ... | _l y n x es                 rank 51
       |                         ... | _l yn x es                  rank 1492, then 28557 (_lyn) and 38715 (xes)
       v                         ... | _lyn xes
     ids                         49190  1589 506 216 36 34 216 28809 38967

   From ids back to text: the bytes of each id, joined; invalid UTF-8 becomes U+FFFD.

   Added tokens and digits cut the text first, and each piece is matched alone: the pattern's look-ahead cannot see
   beyond its end. That is why the space before 42 stands alone.

   The library writes every byte as a printable character before it merges (a space as U+0120). The checkpoint holds
   plain bytes instead, and the ids of the single bytes, which are not in byte order. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------- classes of characters

   The classes \p{L}, \p{N} and \s of the library's regular expressions (Oniguruma, Unicode 16.0), read from the library
   itself (tokenizers 0.23.3) for every code point. "python3 tests/golden_tokenizer.py tables" writes these tables. Each
   number is the length of a run of code points, alternately outside the class and inside it, first outside. After the
   last run none is inside. The library's Digits step uses Rust's char::is_numeric (Unicode 17.0), which knows a few
   more: digit_only. Whether an added token stands alone is decided by another library (regex): its \w is the letters
   and the table `word`. */
static const uint16_t letter[] = {
    65, 26, 6, 26, 47, 1, 10, 1, 4, 1, 5, 23, 1, 31, 1, 458, 4, 12, 14, 5, 7, 1, 1, 1, 129, 5, 1, 2, 2, 4, 1, 1, 6, 1,
    1, 3, 1, 1, 1, 20, 1, 83, 1, 139, 8, 166, 1, 38, 2, 1, 6, 41, 71, 27, 4, 4, 45, 43, 35, 2, 1, 99, 1, 1, 15, 2, 7, 2,
    10, 3, 2, 1, 16, 1, 1, 30, 29, 89, 11, 1, 24, 33, 9, 2, 4, 1, 5, 22, 4, 1, 9, 1, 3, 1, 23, 25, 7, 11, 5, 24, 1, 6,
    17, 42, 58, 54, 3, 1, 18, 1, 7, 10, 15, 16, 4, 8, 2, 2, 2, 22, 1, 7, 1, 1, 3, 4, 3, 1, 16, 1, 13, 2, 1, 3, 14, 2,
    10, 1, 8, 6, 4, 2, 2, 22, 1, 7, 1, 2, 1, 2, 1, 2, 31, 4, 1, 1, 19, 3, 16, 9, 1, 3, 1, 22, 1, 7, 1, 2, 1, 5, 3, 1,
    18, 1, 15, 2, 23, 1, 11, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3, 1, 30, 2, 1, 3, 15, 1, 17, 1, 1, 6, 3, 3, 1, 4, 3, 2,
    1, 1, 1, 2, 3, 2, 3, 3, 3, 12, 22, 1, 52, 8, 1, 3, 1, 23, 1, 16, 3, 1, 26, 3, 2, 1, 2, 2, 30, 1, 4, 8, 1, 3, 1, 23,
    1, 10, 1, 5, 3, 1, 31, 2, 1, 2, 15, 2, 17, 9, 1, 3, 1, 41, 2, 1, 16, 1, 5, 3, 8, 3, 24, 6, 5, 18, 3, 24, 1, 9, 1, 1,
    2, 7, 58, 48, 1, 2, 12, 7, 58, 2, 1, 1, 1, 5, 1, 24, 1, 1, 1, 10, 1, 2, 9, 1, 2, 5, 1, 1, 21, 4, 32, 1, 63, 8, 1,
    36, 27, 5, 115, 43, 20, 1, 16, 6, 4, 4, 3, 1, 3, 2, 7, 3, 4, 13, 12, 1, 17, 38, 1, 1, 5, 1, 2, 43, 1, 333, 1, 4, 2,
    7, 1, 1, 1, 4, 2, 41, 1, 4, 2, 33, 1, 4, 2, 7, 1, 1, 1, 4, 2, 15, 1, 57, 1, 4, 2, 67, 37, 16, 16, 86, 2, 6, 3, 620,
    2, 17, 1, 26, 5, 75, 6, 8, 7, 18, 13, 19, 14, 18, 14, 13, 1, 3, 15, 52, 35, 1, 4, 1, 67, 89, 7, 5, 2, 34, 1, 1, 5,
    70, 10, 31, 49, 30, 2, 5, 11, 44, 4, 26, 54, 23, 9, 53, 82, 1, 93, 47, 17, 8, 54, 30, 13, 2, 10, 44, 26, 36, 41, 3,
    10, 36, 2, 11, 5, 43, 2, 3, 41, 4, 1, 6, 1, 2, 3, 1, 5, 192, 64, 278, 2, 6, 2, 38, 2, 6, 2, 8, 1, 1, 1, 1, 1, 1, 1,
    31, 2, 53, 1, 7, 1, 1, 3, 3, 1, 7, 3, 4, 2, 6, 4, 13, 5, 3, 1, 7, 116, 1, 13, 1, 16, 13, 101, 1, 4, 1, 2, 10, 1, 1,
    3, 5, 6, 1, 1, 1, 1, 1, 1, 4, 1, 11, 2, 4, 5, 5, 4, 1, 52, 2, 2683, 229, 6, 4, 3, 2, 12, 38, 1, 1, 5, 1, 2, 56, 7,
    1, 16, 23, 9, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 80, 1, 469, 2, 42, 5, 5, 2, 4, 86, 6, 3, 1, 90, 1, 4, 5,
    43, 1, 94, 17, 32, 48, 16, 512, 6592, 64, 22157, 67, 46, 2, 269, 3, 16, 10, 2, 20, 47, 16, 31, 2, 70, 49, 9, 2, 103,
    2, 67, 2, 2, 1, 1, 1, 8, 21, 16, 1, 3, 1, 4, 1, 23, 29, 52, 14, 50, 62, 6, 3, 1, 1, 2, 11, 28, 10, 23, 25, 29, 7,
    47, 28, 1, 16, 5, 1, 10, 10, 5, 1, 41, 23, 3, 1, 8, 20, 23, 3, 1, 3, 50, 1, 1, 3, 2, 2, 5, 2, 1, 1, 1, 24, 3, 2, 11,
    7, 3, 12, 6, 2, 6, 2, 6, 9, 7, 1, 7, 1, 43, 1, 14, 6, 115, 29, 11172, 12, 23, 4, 49, 8452, 366, 2, 106, 38, 7, 12,
    5, 5, 1, 1, 10, 1, 13, 1, 5, 1, 1, 1, 2, 1, 2, 1, 108, 33, 363, 18, 64, 2, 54, 40, 12, 116, 5, 1, 135, 36, 26, 6,
    26, 11, 89, 3, 6, 2, 6, 2, 6, 2, 3, 35, 12, 1, 26, 1, 19, 1, 2, 1, 15, 2, 14, 34, 123, 389, 29, 3, 49, 47, 32, 13,
    20, 1, 8, 6, 38, 10, 30, 2, 36, 4, 8, 48, 158, 18, 36, 4, 36, 4, 40, 8, 52, 12, 11, 1, 15, 1, 7, 1, 2, 1, 11, 1, 15,
    1, 7, 1, 2, 3, 52, 12, 311, 9, 22, 10, 8, 24, 6, 1, 42, 1, 9, 69, 6, 2, 1, 1, 44, 1, 2, 3, 1, 2, 23, 10, 23, 9, 31,
    65, 19, 1, 2, 10, 22, 10, 26, 70, 56, 6, 2, 64, 1, 15, 4, 1, 3, 1, 29, 42, 29, 3, 29, 35, 8, 1, 28, 27, 54, 10, 22,
    10, 19, 13, 18, 110, 73, 55, 51, 13, 51, 13, 36, 38, 28, 9, 23, 250, 42, 6, 2, 16, 3, 59, 29, 10, 1, 8, 22, 42, 18,
    46, 21, 27, 23, 12, 53, 57, 2, 2, 1, 13, 45, 32, 25, 26, 36, 29, 1, 2, 1, 8, 35, 3, 1, 12, 48, 14, 4, 21, 1, 1, 1,
    35, 18, 1, 25, 19, 2, 63, 7, 1, 1, 1, 4, 1, 15, 1, 10, 7, 47, 38, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 12,
    5, 30, 10, 1, 1, 2, 1, 1, 38, 1, 1, 25, 1, 1, 1, 44, 53, 18, 4, 20, 3, 30, 48, 20, 2, 1, 1, 184, 47, 41, 4, 36, 48,
    20, 1, 59, 43, 13, 1, 71, 27, 37, 7, 185, 44, 116, 64, 31, 8, 2, 1, 2, 8, 1, 2, 1, 24, 15, 1, 1, 1, 94, 8, 2, 39,
    16, 1, 1, 1, 28, 1, 10, 40, 7, 1, 21, 1, 11, 46, 19, 1, 18, 73, 199, 33, 31, 9, 1, 37, 17, 1, 49, 30, 112, 7, 1, 2,
    1, 38, 21, 1, 25, 6, 1, 2, 1, 32, 14, 1, 327, 19, 15, 1, 1, 13, 1, 34, 124, 1, 79, 922, 230, 196, 2636, 97, 15,
    1072, 17, 6, 25, 3995, 5, 583, 6841, 30, 1762, 569, 7, 31, 17, 79, 17, 30, 18, 48, 16, 4, 31, 21, 5, 19, 432, 45,
    211, 64, 128, 75, 5, 1, 66, 13, 64, 2, 1, 1, 28, 6136, 8, 1238, 41, 10, 8935, 4, 1, 7, 1, 2, 1, 291, 15, 1, 29, 3,
    2, 1, 14, 4, 8, 396, 2308, 107, 5, 13, 3, 9, 7, 10, 5990, 85, 1, 71, 1, 2, 2, 1, 2, 2, 2, 4, 1, 12, 1, 1, 1, 7, 1,
    65, 1, 4, 2, 8, 1, 7, 1, 28, 1, 4, 1, 5, 1, 1, 3, 7, 1, 340, 2, 25, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25,
    1, 31, 1, 25, 1, 8, 1844, 31, 6, 6, 261, 62, 146, 45, 10, 7, 16, 1, 321, 30, 18, 44, 484, 28, 228, 30, 2, 1, 495, 7,
    1, 4, 1, 2, 1, 15, 1, 197, 59, 68, 7, 1, 1204, 4, 1, 27, 1, 2, 1, 1, 2, 1, 1, 10, 1, 4, 1, 1, 1, 1, 6, 1, 4, 1, 1,
    1, 1, 1, 1, 3, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 4, 1, 7, 1, 4, 1, 4, 1, 1, 1, 10, 1, 17, 5,
    3, 1, 5, 1, 17, 4420, 42720, 32, 4154, 6, 222, 2, 5762, 14, 7473, 15, 622, 2466, 542, 1506, 4939, 5, 4192
};
static const uint16_t number[] = {
    48, 10, 120, 2, 5, 1, 2, 3, 1441, 10, 134, 10, 198, 10, 412, 10, 118, 10, 4, 6, 108, 10, 118, 10, 118, 10, 2, 6,
    110, 13, 115, 10, 8, 7, 103, 10, 104, 7, 7, 19, 109, 10, 96, 10, 118, 10, 70, 20, 268, 10, 70, 10, 719, 20, 881, 3,
    239, 10, 6, 10, 22, 10, 300, 10, 128, 11, 165, 10, 6, 10, 182, 10, 86, 10, 134, 10, 6, 10, 1046, 1, 3, 6, 6, 10,
    198, 51, 2, 5, 726, 60, 78, 22, 630, 30, 1385, 1, 777, 1, 25, 9, 14, 3, 343, 4, 138, 10, 30, 8, 1, 15, 32, 10, 39,
    15, 29536, 10, 188, 10, 320, 6, 154, 10, 38, 10, 198, 10, 22, 10, 86, 10, 406, 10, 21270, 10, 493, 45, 12, 57, 17,
    2, 341, 27, 36, 4, 29, 1, 8, 1, 134, 5, 202, 10, 942, 8, 25, 7, 39, 9, 75, 5, 22, 6, 160, 2, 2, 16, 2, 46, 64, 9,
    52, 2, 30, 3, 75, 5, 104, 8, 24, 8, 41, 7, 330, 6, 48, 10, 6, 10, 278, 31, 158, 10, 42, 4, 112, 7, 134, 30, 128, 10,
    60, 10, 144, 10, 7, 20, 251, 10, 342, 10, 118, 10, 374, 10, 102, 10, 6, 20, 76, 12, 420, 19, 93, 10, 662, 10, 86,
    29, 227, 10, 70, 10, 422, 10, 102, 21, 1067, 111, 15553, 10, 2342, 10, 86, 10, 134, 10, 1, 7, 526, 10, 262, 23,
    24153, 10, 1478, 20, 12, 20, 108, 25, 1109, 50, 2368, 10, 422, 10, 502, 10, 247, 10, 716, 9, 128, 10, 791, 59, 1, 3,
    1, 4, 76, 45, 1, 15, 962, 13, 2787, 10
};
static const uint16_t space[] = {
    9, 5, 18, 1, 100, 1, 26, 1, 5599, 1, 2431, 11, 29, 2, 5, 1, 47, 1, 4000, 1
};
static const uint16_t word[] = {
    48, 10, 37, 1, 672, 112, 275, 7, 263, 45, 1, 1, 1, 2, 1, 2, 1, 1, 72, 11, 48, 31, 6, 1, 101, 7, 2, 6, 2, 2, 1, 4, 2,
    10, 23, 1, 30, 27, 91, 11, 15, 10, 33, 9, 9, 1, 24, 4, 1, 9, 1, 3, 1, 5, 43, 3, 59, 9, 42, 24, 1, 33, 54, 3, 1, 18,
    1, 7, 10, 2, 2, 10, 17, 3, 56, 1, 1, 7, 2, 2, 2, 3, 9, 1, 10, 2, 2, 10, 14, 1, 2, 3, 56, 1, 1, 5, 4, 2, 2, 3, 3, 1,
    20, 12, 3, 1, 11, 3, 56, 1, 1, 8, 1, 3, 1, 3, 20, 2, 2, 10, 10, 6, 1, 3, 56, 1, 1, 7, 2, 2, 2, 3, 7, 3, 10, 2, 2,
    10, 18, 1, 59, 5, 3, 3, 1, 4, 9, 1, 14, 10, 16, 5, 55, 1, 1, 7, 1, 3, 1, 4, 7, 2, 11, 2, 2, 10, 17, 3, 56, 1, 1, 7,
    1, 3, 1, 4, 7, 2, 11, 2, 2, 10, 3, 1, 12, 4, 55, 2, 1, 7, 1, 3, 1, 4, 9, 1, 10, 2, 2, 10, 17, 3, 70, 1, 4, 6, 1, 1,
    1, 8, 6, 10, 2, 2, 61, 1, 2, 7, 12, 8, 1, 10, 87, 1, 2, 9, 11, 7, 1, 10, 62, 2, 6, 10, 11, 1, 1, 1, 1, 1, 4, 2, 49,
    20, 1, 2, 5, 11, 1, 36, 9, 1, 100, 20, 1, 10, 12, 4, 4, 3, 1, 3, 2, 7, 3, 4, 13, 12, 1, 15, 703, 3, 910, 3, 33, 4,
    28, 3, 29, 2, 30, 2, 64, 32, 9, 1, 2, 10, 33, 3, 1, 11, 107, 2, 34, 1, 118, 12, 4, 12, 10, 10, 128, 10, 61, 5, 57,
    10, 1, 29, 2, 11, 6, 10, 22, 31, 49, 5, 47, 17, 11, 10, 17, 9, 12, 3, 30, 13, 2, 10, 44, 14, 48, 20, 8, 10, 6, 10,
    118, 3, 1, 21, 4, 1, 6, 1, 2, 3, 198, 64, 524, 2, 49, 2, 19, 1, 123, 33, 111, 35, 2, 4, 813, 52, 2053, 3, 141, 1,
    96, 32, 519, 1, 25, 15, 8, 3, 94, 2, 30085, 10, 69, 4, 1, 10, 32, 2, 70, 12, 272, 1, 3, 1, 4, 1, 23, 5, 4, 1, 83, 2,
    50, 18, 10, 10, 6, 18, 13, 11, 28, 8, 25, 13, 44, 4, 47, 14, 15, 10, 11, 1, 10, 10, 47, 14, 12, 1, 8, 2, 2, 10, 33,
    3, 50, 1, 1, 3, 2, 2, 5, 2, 1, 1, 41, 5, 5, 2, 236, 8, 1, 2, 2, 10, 20260, 1, 737, 16, 16, 16, 3, 2, 24, 3, 192, 10,
    37, 1, 512, 53, 136, 1, 226, 1, 96, 1, 8, 1, 43, 5, 86, 5, 202, 10, 1367, 3, 1, 2, 5, 4, 40, 3, 4, 1, 165, 2, 573,
    4, 8, 10, 6, 10, 31, 5, 317, 2, 79, 4, 70, 11, 49, 4, 122, 3, 53, 15, 31, 11, 2, 2, 10, 4, 45, 11, 7, 1, 45, 10, 6,
    3, 36, 14, 1, 10, 5, 2, 44, 1, 12, 3, 48, 14, 8, 4, 1, 12, 82, 12, 6, 1, 2, 1, 157, 12, 5, 10, 6, 4, 55, 2, 1, 7, 2,
    2, 2, 3, 9, 1, 10, 2, 2, 7, 3, 5, 67, 9, 1, 1, 2, 1, 1, 4, 1, 5, 1, 1, 14, 2, 82, 18, 9, 10, 4, 1, 81, 20, 12, 10,
    213, 7, 2, 9, 27, 2, 82, 17, 15, 10, 81, 13, 8, 10, 6, 20, 57, 15, 4, 10, 242, 15, 165, 10, 70, 6, 1, 2, 2, 4, 1, 1,
    1, 2, 12, 10, 119, 7, 2, 7, 3, 1, 28, 10, 40, 7, 1, 4, 8, 1, 9, 11, 46, 16, 342, 10, 53, 8, 1, 8, 16, 10, 56, 22, 1,
    14, 122, 6, 3, 1, 1, 2, 1, 7, 1, 1, 8, 10, 48, 5, 1, 2, 1, 5, 8, 10, 329, 4, 9, 2, 1, 1, 48, 7, 3, 5, 13, 11, 1189,
    111, 4049, 1, 6, 15, 11464, 28, 2342, 10, 86, 10, 38, 5, 59, 7, 25, 10, 534, 10, 469, 1, 1, 55, 7, 4, 81, 1, 11, 2,
    19627, 2, 4177, 10, 518, 46, 2, 23, 542, 5, 3, 6, 8, 8, 2, 7, 30, 4, 148, 3, 1417, 50, 512, 55, 4, 50, 8, 1, 14, 1,
    22, 5, 1, 15, 1360, 7, 1, 17, 2, 7, 1, 2, 1, 5, 100, 1, 160, 7, 9, 10, 356, 1, 61, 14, 498, 14, 244, 2, 1, 10, 725,
    7, 109, 7, 5, 10, 2006, 26, 6, 26, 6, 26, 2662, 10, 65535, 0, 65535, 0, 65535, 0, 65535, 0, 65535, 0, 65535, 0,
    65535, 0, 65535, 0, 65535, 0, 65535, 0, 65535, 0, 65535, 0, 1298, 240
};
static const uint32_t digit_only[] = {
    0x11DE0, 0x11DE1, 0x11DE2, 0x11DE3, 0x11DE4, 0x11DE5, 0x11DE6, 0x11DE7, 0x11DE8, 0x11DE9, 0x16FF4, 0x16FF5, 0x16FF6
};
#define N_CLASSED 0x323B0      /* one more than the last code point of any class */

enum { LETTER = 1, NUMBER = 2, SPACE = 4, PATTERN_CLASS = 7, DIGIT = 8 };      /* bits; 0: in none of the classes */

static void set_class(uint8_t *class_of, const uint16_t *run, size_t n_runs, uint8_t bits) {
    uint32_t c = 0;
    for (size_t i = 0; i < n_runs; i++)
        for (uint32_t end = c + run[i]; c < end; c++)
            if (i % 2) class_of[c] |= bits;
}

static void set_classes(uint8_t *class_of) {
    set_class(class_of, letter, sizeof letter / sizeof *letter, LETTER);
    set_class(class_of, number, sizeof number / sizeof *number, NUMBER | DIGIT);
    set_class(class_of, space, sizeof space / sizeof *space, SPACE);
    for (size_t i = 0; i < sizeof digit_only / sizeof *digit_only; i++) class_of[digit_only[i]] |= DIGIT;
}

/* --------------------------------------------------------------------------------------- UTF-8

   An invalid sequence becomes one U+FFFD per "maximal subpart": the longest beginning of a possible character, or else
   one byte. Python's errors="replace" and Rust's from_utf8_lossy do the same. */

/* The length of the character that begins with this byte; 0 if none does. */
static int utf8_length(uint8_t lead) {
    return lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
}

/* Whether byte may follow the first count (1 to 3) bytes of a character. Surrogates, overlong forms and characters
   beyond U+10FFFF are excluded; all of these show in the second byte. */
static bool utf8_continues(const uint8_t *kept, int count, uint8_t byte) {
    if (count == 1 && kept[0] == 0xE0) return byte >= 0xA0 && byte <= 0xBF;
    if (count == 1 && kept[0] == 0xED) return byte >= 0x80 && byte <= 0x9F;
    if (count == 1 && kept[0] == 0xF0) return byte >= 0x90 && byte <= 0xBF;
    if (count == 1 && kept[0] == 0xF4) return byte >= 0x80 && byte <= 0x8F;
    return byte >= 0x80 && byte <= 0xBF;
}

/* sv_utf8_feed, but it only measures if out is NULL, and it says whether it replaced anything. */
static size_t utf8_feed(SvUtf8 *utf8, const char *bytes, size_t size, bool end, char *out, bool *replaced) {
    static const uint8_t replacement[] = { 0xEF, 0xBF, 0xBD };
    uint8_t *kept = utf8->kept;
    size_t n = 0;
    for (size_t i = 0; i < size || (end && utf8->count); ) {
        int count = utf8->count;
        const uint8_t *character = kept;
        if (i < size && count == 0) {
            kept[count++] = (uint8_t)bytes[i++];
        } else if (i < size && utf8_continues(kept, count, (uint8_t)bytes[i])) {
            kept[count++] = (uint8_t)bytes[i++];
        } else {        /* the end, or a byte of the next character, which is read again */
            character = replacement;
        }
        int length = utf8_length(kept[0]);
        if (length == 0) character = replacement;
        if (character == replacement) {
            *replaced = true;
            count = length = 3;
        }
        utf8->count = count < length ? count : 0;
        if (count < length) continue;
        if (out) memcpy(out + n, character, (size_t)length);
        n += (size_t)length;
    }
    return n;
}

size_t sv_utf8_feed(SvUtf8 *utf8, const char *bytes, size_t size, bool end, char *out) {
    bool replaced;
    return utf8_feed(utf8, bytes, size, end, out, &replaced);
}

/* The character at s, which is valid UTF-8; *length gets its length in bytes. */
static uint32_t utf8_decode(const uint8_t *s, size_t *length) {
    *length = (size_t)utf8_length(s[0]);
    switch (*length) {
    case 2:  return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    case 3:  return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    case 4:  return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    default: return s[0];
    }
}

/* --------------------------------------------------------------------------------------- the tokenizer in memory */

#define NO_ID UINT32_MAX

/* Two symbols that merge into one. Lower ranks merge first. */
typedef struct Merge { uint32_t left, right, merged, rank; } Merge;

typedef struct Added { SvString content; uint32_t id, order, flags; } Added;

/* Added tokens that are matched together. */
typedef struct AddedSet {
    Added *token;                   /* sorted by content, so that those with a common prefix are adjacent */
    size_t begin[257];              /* those that begin with byte b: begin[b] .. begin[b + 1] */
} AddedSet;

struct SvTokenizer {
    uint32_t n_ids;
    SvString *token;                /* [n_ids] */
    uint32_t byte_id[256];
    Merge *merge;                   /* a hash table of merge_mask + 1 slots, half of them free: rank == NO_ID */
    size_t merge_mask;
    Added *added;
    AddedSet added_set[2];          /* without SV_NORMALIZED: matched first; with it: in the rest */
    bool single_digits;
    uint8_t class_of[N_CLASSED];
};

/* The slot of the pair left, right in the table: its own, or the free one where it would go. */
static Merge *find_merge(const SvTokenizer *t, uint32_t left, uint32_t right) {
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    for (size_t i = (size_t)(hash >> 32) & t->merge_mask; ; i = (i + 1) & t->merge_mask) {
        Merge *m = &t->merge[i];
        if (m->rank == NO_ID || (m->left == left && m->right == right)) return m;
    }
}

static int compare_added(const void *x, const void *y) {
    const Added *a = x, *b = y;
    if ((a->flags ^ b->flags) & SV_NORMALIZED) return a->flags & SV_NORMALIZED ? 1 : -1;
    int order = memcmp(a->content.data, b->content.data,
                       a->content.size < b->content.size ? a->content.size : b->content.size);
    if (order == 0) order = (a->content.size > b->content.size) - (a->content.size < b->content.size);
    return order ? order : a->order < b->order ? -1 : 1;
}

/* The longest added token that the text begins with, or NULL. */
static const Added *find_added(const AddedSet *set, const uint8_t *text, size_t size) {
    /* begin .. end: the added tokens that share their first depth bytes with the text. The shortest comes first. */
    size_t begin = set->begin[text[0]], end = set->begin[text[0] + 1];
    const Added *longest = NULL;
    for (size_t depth = 1; begin < end; depth++) {
        if (set->token[begin].content.size == depth) {
            longest = &set->token[begin];
            while (begin < end && set->token[begin].content.size == depth) begin++;      /* a duplicate: never used */
        }
        if (depth == size) break;
        size_t first[2];            /* the first of begin .. end whose next byte is not below text[depth] + 0, + 1 */
        for (unsigned above = 0; above < 2; above++) {
            size_t low = begin, high = end;
            while (low < high) {
                size_t middle = low + (high - low) / 2;
                if ((uint8_t)set->token[middle].content.data[depth] < text[depth] + above) low = middle + 1;
                else high = middle;
            }
            first[above] = low;
        }
        begin = first[0];
        end = first[1];
    }
    return longest;
}

/* --------------------------------------------------------------------------------------- from the checkpoint */

typedef struct Reader { const uint8_t *at; size_t left; bool short_of; } Reader;

static uint32_t read_u32(Reader *r) {
    if (r->left < 4) {
        r->short_of = true;
        r->left = 0;
        return 0;
    }
    const uint8_t *b = r->at;
    r->at += 4;
    r->left -= 4;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static SvString read_string(Reader *r) {
    SvString s = { "", read_u32(r) };
    if (s.size > r->left || s.size > SIZE_MAX / 8) {    /* the second: three times the size must fit a size_t */
        r->short_of = true;
        r->left = s.size = 0;
    }
    if (s.size == 0) return s;
    s.data = (const char *)r->at;
    r->at += s.size;
    r->left -= s.size;
    return s;
}

/* Reads a count of items of at least min_size bytes each. A count that the file cannot hold is refused, so nothing is
   allocated for it. */
static uint32_t read_count(Reader *r, size_t min_size) {
    uint32_t n = read_u32(r);
    if (r->left / min_size < n) {
        r->short_of = true;
        r->left = n = 0;
    }
    return n;
}

/* Makes a set of n tokens that are already sorted. */
static void index_added(AddedSet *set, Added *token, size_t n) {
    set->token = token;
    for (size_t i = 0; i < n; i++) set->begin[(uint8_t)token[i].content.data[0] + 1] = i + 1;
    for (int b = 0; b < 256; b++)
        if (set->begin[b + 1] < set->begin[b]) set->begin[b + 1] = set->begin[b];
}

static int load(SvTokenizer *t, Reader *r, uint32_t vocab_size, SvError *error) {
    t->n_ids = read_count(r, 4);
    if (t->n_ids > vocab_size || t->n_ids > INT32_MAX)
        return sv_fail(error, "the tokenizer has %lu ids, but the vocabulary only %lu",
                       (unsigned long)t->n_ids, (unsigned long)vocab_size);
    t->token = calloc((size_t)t->n_ids + 1, sizeof *t->token);
    if (!t->token) return sv_fail(error, "no memory for the tokenizer's %lu tokens", (unsigned long)t->n_ids);
    for (uint32_t i = 0; i < t->n_ids; i++) t->token[i] = read_string(r);

    uint32_t largest = 0;       /* of all ids named below */
    for (int i = 0; i < 256; i++) {
        uint32_t id = t->byte_id[i] = read_u32(r);
        if (id != NO_ID && id > largest) largest = id;
    }

    uint32_t n_merges = read_count(r, 12);
    size_t n_places = 2;
    while (n_places / 2 < n_merges && n_places <= SIZE_MAX / 2 / sizeof *t->merge) n_places *= 2;
    t->merge = n_places / 2 < n_merges ? NULL : malloc(n_places * sizeof *t->merge);
    if (!t->merge) return sv_fail(error, "no memory for the tokenizer's %lu merges", (unsigned long)n_merges);
    t->merge_mask = n_places - 1;
    for (size_t i = 0; i < n_places; i++) t->merge[i].rank = NO_ID;
    for (uint32_t rank = 0; rank < n_merges; rank++) {
        uint32_t left = read_u32(r), right = read_u32(r), merged = read_u32(r);
        if (left > largest) largest = left;
        if (right > largest) largest = right;
        if (merged > largest) largest = merged;
        if (largest >= t->n_ids) continue;          /* would only fill the table; refused below */
        /* If a pair is stated twice, the library keeps the later one. */
        *find_merge(t, left, right) = (Merge){ left, right, merged, rank };
    }

    uint32_t n_added = read_count(r, 12);
    t->added = calloc((size_t)n_added + 1, sizeof *t->added);
    if (!t->added) return sv_fail(error, "no memory for the tokenizer's %lu added tokens", (unsigned long)n_added);
    size_t n = 0, n_first = 0;
    uint32_t all_flags = 0;
    bool replaced = false;
    for (uint32_t i = 0; i < n_added; i++) {
        uint32_t id = read_u32(r), flags = read_u32(r);
        SvString content = read_string(r);
        if (id > largest) largest = id;
        all_flags |= flags;
        utf8_feed(&(SvUtf8){ { 0 }, 0 }, content.data, content.size, true, NULL, &replaced);
        if (content.size == 0) continue;            /* the library, too, skips an empty one */
        t->added[n++] = (Added){ content, id, i, flags };
        n_first += !(flags & SV_NORMALIZED);
    }
    qsort(t->added, n, sizeof *t->added, compare_added);
    index_added(&t->added_set[0], t->added, n_first);
    index_added(&t->added_set[1], t->added + n_first, n - n_first);

    uint32_t single_digits = read_u32(r);
    t->single_digits = single_digits == 1;

    if (r->short_of) return sv_fail(error, "the tokenizer is cut short, or one of its lengths is wrong");
    if (largest >= t->n_ids)
        return sv_fail(error, "the tokenizer names the id %lu, but has only %lu ids",
                       (unsigned long)largest, (unsigned long)t->n_ids);
    if (single_digits > 1)
        return sv_fail(error, "the tokenizer's single_digits is %lu, neither 0 nor 1", (unsigned long)single_digits);
    if (all_flags >= 2 * SV_SINGLE_WORD || replaced)
        return sv_fail(error, "the tokenizer has an added token %s",
                       replaced ? "that is not UTF-8" : "with flags of no known meaning");
    set_classes(t->class_of);
    return 0;
}

int sv_tokenizer_load(const uint8_t *data, size_t size, uint32_t vocab_size, size_t *used,
                      SvTokenizer **tokenizer, SvError *error) {
    *used = 0;
    *tokenizer = NULL;
    SvTokenizer *t = calloc(1, sizeof *t);
    if (!t) return sv_fail(error, "no memory for the tokenizer");
    Reader r = { data, size, false };
    if (load(t, &r, vocab_size, error)) {
        sv_tokenizer_free(t);
        return -1;
    }
    *used = size - r.left;
    *tokenizer = t;
    return 0;
}

void sv_tokenizer_free(SvTokenizer *tokenizer) {
    if (!tokenizer) return;
    free(tokenizer->token);
    free(tokenizer->merge);
    free(tokenizer->added);
    free(tokenizer);
}

/* --------------------------------------------------------------------------------------- merges

   Adjacent pairs that can merge wait in a heap. The pair of the lowest rank comes out first; of equal ranks, the
   leftmost. A pair whose symbols have changed since is recognised when it comes out, so n bytes take O(n log n)
   steps. */

typedef struct Symbol { uint32_t id; int32_t previous, next; } Symbol;     /* id NO_ID: merged away; -1: no neighbour */

typedef struct Work {
    const SvTokenizer *t;
    Symbol *symbol;     size_t symbol_capacity;
    uint64_t *heap;     size_t heap_capacity, heap_count;       /* rank << 32 | index of the left symbol */
    int32_t *ids;       size_t ids_capacity, ids_count;
} Work;

/* Makes room for count items. *capacity grows by at least half, so that many small steps cost no more than a large one.
   Returns NULL if out of memory, and leaves old unchanged. */
static void *make_room(void *old, size_t *capacity, size_t count, size_t item_size) {
    if (count <= *capacity) return old;
    size_t n = *capacity + *capacity / 2 + 64;
    if (n < count) n = count;
    if (n > SIZE_MAX / item_size) return NULL;
    void *items = realloc(old, n * item_size);
    if (items) *capacity = n;
    return items;
}

static bool make_room_for_ids(Work *w, size_t count) {
    int32_t *ids = make_room(w->ids, &w->ids_capacity, w->ids_count + count, sizeof *ids);
    if (ids) w->ids = ids;
    return ids != NULL;
}

static void heap_push(Work *w, uint64_t key) {
    size_t i = w->heap_count++;
    for (; i > 0 && w->heap[(i - 1) / 2] > key; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = key;
}

static uint64_t heap_pop(Work *w) {
    uint64_t top = w->heap[0], key = w->heap[--w->heap_count];
    size_t n = w->heap_count, i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && w->heap[child + 1] < w->heap[child]) child++;
        if (w->heap[child] >= key) break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = key;
    return top;
}

/* Puts the pair of symbol i and the next one into the heap, if there is a merge for it. */
static void push_pair(Work *w, int32_t i) {
    if (i < 0 || w->symbol[i].next < 0) return;
    const Merge *m = find_merge(w->t, w->symbol[i].id, w->symbol[w->symbol[i].next].id);
    if (m->rank != NO_ID) heap_push(w, (uint64_t)m->rank << 32 | (uint32_t)i);
}

static bool merge_piece(Work *w, const uint8_t *piece, size_t size) {
    /* Each merge takes one pair out of the heap and puts at most two in: it never holds 2 * size. */
    Symbol *symbol = make_room(w->symbol, &w->symbol_capacity, size, sizeof *symbol);
    if (symbol) w->symbol = symbol;
    uint64_t *heap = make_room(w->heap, &w->heap_capacity, 2 * size, sizeof *heap);
    if (heap) w->heap = heap;
    if (!symbol || !heap || !make_room_for_ids(w, size)) return false;

    /* A byte without an id is dropped and its neighbours become adjacent, as in the library without an unk_token. */
    int32_t n = 0;
    for (size_t i = 0; i < size; i++)
        if (w->t->byte_id[piece[i]] != NO_ID) {
            symbol[n] = (Symbol){ w->t->byte_id[piece[i]], n - 1, n + 1 };
            n++;
        }
    if (n == 0) return true;
    symbol[n - 1].next = -1;

    w->heap_count = 0;
    for (int32_t i = 0; i < n; i++) push_pair(w, i);
    while (w->heap_count) {
        uint64_t key = heap_pop(w);
        int32_t i = (int32_t)(key & UINT32_MAX), next = symbol[i].next;
        if (symbol[i].id == NO_ID || next < 0) continue;
        const Merge *m = find_merge(w->t, symbol[i].id, symbol[next].id);
        if (m->rank != key >> 32) continue;
        symbol[i].id = m->merged;
        symbol[i].next = symbol[next].next;
        symbol[next].id = NO_ID;
        if (symbol[i].next >= 0) symbol[symbol[i].next].previous = i;
        push_pair(w, symbol[i].previous);
        push_pair(w, i);
    }
    for (int32_t i = 0; i >= 0; i = symbol[i].next) w->ids[w->ids_count++] = (int32_t)symbol[i].id;
    return true;
}

/* --------------------------------------------------------------------------------------- from text to pieces */

/* The class of the character at s, and its length in bytes. */
static unsigned class_at(const SvTokenizer *t, const uint8_t *s, size_t *length) {
    uint32_t c = utf8_decode(s, length);
    return c < N_CLASSED ? t->class_of[c] : 0;
}

/* The length of the GPT-2 pattern's match at the start of s, size > 0 bytes:

     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+                                       */
static size_t match_pattern(const SvTokenizer *t, const uint8_t *s, size_t size) {
    if (s[0] == '\'' && size >= 2) {
        if (strchr("stmd", s[1]) && s[1]) return 2;
        if (size >= 3 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') || (s[1] == 'l' && s[2] == 'l')))
            return 3;
    }

    size_t length, begin = s[0] == ' ' && size > 1 ? 1 : 0;
    unsigned class = class_at(t, s + begin, &length) & PATTERN_CLASS;
    if (class != SPACE) {
        size_t n = begin + length;
        while (n < size && (class_at(t, s + n, &length) & PATTERN_CLASS) == class) n += length;
        return n;
    }

    /* White space up to the end of the text, or else without its last character, because \S must not follow. That
       character belongs to the next match if it is a space, and stands alone if not (the last alternative). */
    size_t n = 0, last = 0;
    while (n < size && (class_at(t, s + n, &length) & PATTERN_CLASS) == SPACE) {
        last = n;
        n += length;
    }
    return n == size || last == 0 ? n : last;
}

/* Text without added tokens and digits that stand alone. */
static bool tokenize_text(Work *w, const uint8_t *s, size_t size) {
    for (size_t n; size; s += n, size -= n) {
        n = match_pattern(w->t, s, size);
        if (!merge_piece(w, s, n)) return false;
    }
    return true;
}

/* Text without added tokens. */
static bool tokenize_digits(Work *w, const uint8_t *s, size_t size) {
    size_t begin = 0, length;
    for (size_t i = 0; i < size && w->t->single_digits; i += length) {
        if (!(class_at(w->t, s + i, &length) & DIGIT)) continue;
        if (!tokenize_text(w, s + begin, i - begin) || !tokenize_text(w, s + i, length)) return false;
        begin = i + length;
    }
    return tokenize_text(w, s + begin, size - begin);
}

/* The character that ends just before s + i, i > 0; *length gets its length in bytes. */
static uint32_t utf8_decode_before(const uint8_t *s, size_t i, size_t *length) {
    size_t first = i - 1, own;
    while (first > 0 && (s[first] & 0xC0) == 0x80) first--;
    *length = i - first;
    return utf8_decode(s + first, &own);
}

static bool is_space(const SvTokenizer *t, uint32_t c) { return c < N_CLASSED && t->class_of[c] & SPACE; }

static bool is_word(const SvTokenizer *t, uint32_t c) {
    if (c < N_CLASSED && t->class_of[c] & LETTER) return true;
    uint32_t end = 0;
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        end += word[i];
        if (c < end) return i % 2;
    }
    return false;
}

/* Whether no word character (\w) is adjacent to s[start .. stop). */
static bool is_single_word(const SvTokenizer *t, const uint8_t *s, size_t size, size_t start, size_t stop) {
    size_t length;
    return !(start > 0 && is_word(t, utf8_decode_before(s, start, &length))) &&
           !(stop < size && is_word(t, utf8_decode(s + stop, &length)));
}

/* Text of valid UTF-8: cuts out the added tokens of set 0, then those of set 1 from the rest, and tokenizes what
   remains. AddedVocabulary::find_matches searches the original text, whatever white space earlier matches took. So a
   token of white space that is already taken matches again, and `done` moves back. With "lstrip", however, its start
   moves to `done`, and the token vanishes if nothing of it is left. (If less than nothing is left, the library
   fails.) */
static bool tokenize_added(Work *w, const uint8_t *s, size_t size, int set) {
    if (set == 2) return tokenize_digits(w, s, size);
    size_t done = 0, spaces = 0, length;        /* the text is processed up to done; white space ends at spaces */
    for (size_t i = 0; i < size; ) {
        const Added *added = find_added(&w->t->added_set[set], s + i, size - i);
        if (!added) {
            i++;
            continue;
        }
        size_t start = i, stop = i += added->content.size;
        if (added->flags & SV_SINGLE_WORD && !is_single_word(w->t, s, size, start, stop)) continue;
        while (added->flags & SV_LSTRIP && start > done && is_space(w->t, utf8_decode_before(s, start, &length)))
            start -= length;
        if (added->flags & SV_RSTRIP) {
            if (stop < spaces) stop = spaces;
            while (stop < size && is_space(w->t, utf8_decode(s + stop, &length))) stop += length;
            spaces = stop;
        }
        if (done < start && !tokenize_added(w, s + done, start - done, set + 1)) return false;
        if (!make_room_for_ids(w, 1)) return false;
        if (!(added->flags & SV_LSTRIP) || done < stop) w->ids[w->ids_count++] = (int32_t)added->id;
        done = stop;
    }
    return done == size || tokenize_added(w, s + done, size - done, set + 1);
}

int sv_tokenize(const SvTokenizer *tokenizer, const char *text, size_t size, int32_t **ids, size_t *count,
                SvError *error) {
    *ids = NULL;
    *count = 0;
    if (size == 0) return 0;

    /* Symbols are counted in 31 bits. An invalid byte becomes three, so the size after replacement is checked, too. */
    bool replaced = false, too_long = size > INT32_MAX || size > SIZE_MAX / 3;
    size_t valid_size = too_long ? 0 : utf8_feed(&(SvUtf8){ { 0 }, 0 }, text, size, true, NULL, &replaced);
    if (too_long || valid_size > INT32_MAX) return sv_fail(error, "the text is longer than 2147483647 bytes");
    char *valid = NULL;
    if (replaced) {
        valid = malloc(valid_size);
        if (!valid) return sv_fail(error, "no memory for a text of %lu bytes", (unsigned long)size);
        utf8_feed(&(SvUtf8){ { 0 }, 0 }, text, size, true, valid, &replaced);
    }

    Work w = { .t = tokenizer };
    bool done = tokenize_added(&w, (const uint8_t *)(valid ? valid : text), valid_size, 0);
    free(valid);
    free(w.symbol);
    free(w.heap);
    if (!done) {
        free(w.ids);
        return sv_fail(error, "no memory for the tokens of a text of %lu bytes", (unsigned long)size);
    }
    *ids = w.ids;
    *count = w.ids_count;
    return 0;
}

/* --------------------------------------------------------------------------------------- from ids to text */

const char *sv_token_bytes(const SvTokenizer *tokenizer, int32_t id, size_t *size) {
    SvString s = id < 0 || (uint32_t)id >= tokenizer->n_ids ? (SvString){ "", 0 } : tokenizer->token[id];
    *size = s.size;
    return s.data;
}

bool sv_is_added(const SvTokenizer *tokenizer, int32_t id) {
    size_t n = tokenizer->added_set[0].begin[256] + tokenizer->added_set[1].begin[256];
    for (size_t i = 0; i < n; i++)
        if (tokenizer->added[i].id == (uint32_t)id) return true;
    return false;
}

int sv_detokenize(const SvTokenizer *tokenizer, const int32_t *ids, size_t count, char **text, size_t *size,
                  SvError *error) {
    *text = NULL;
    *size = 0;
    for (int pass = 0; pass < 2; pass++) {      /* measure, then write */
        SvUtf8 utf8 = { { 0 }, 0 };
        bool replaced;
        size_t n = 0;
        for (size_t i = 0; i <= count; i++) {
            size_t token_size = 0;
            const char *bytes = i < count ? sv_token_bytes(tokenizer, ids[i], &token_size) : "";
            size_t added = utf8_feed(&utf8, bytes, token_size, i == count, *text ? *text + n : NULL, &replaced);
            if (added >= SIZE_MAX - n) return sv_fail(error, "the text of %lu ids is too long", (unsigned long)count);
            n += added;
        }
        if (!*text) *text = malloc(n + 1);
        if (!*text) return sv_fail(error, "no memory for a text of %lu bytes", (unsigned long)n);
        (*text)[n] = 0;
        *size = n;
    }
    return 0;
}
