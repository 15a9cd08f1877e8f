/* decode.c: what the codecs make of many files, for tests/fuzz_jpeg.py. Standard input: for each file the number of its
   bytes, 4 of them, little-endian, then the bytes. Standard output, a line for each:

     pixels WIDTH HEIGHT CRC32 NOTE     CRC-32 of the RGB bytes; NOTE: what is remarkable about the file, or nothing
     fails SENTENCE */
#include "../model.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    uint8_t head[4];
    while (fread(head, 1, 4, stdin) == 4) {
        size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        uint8_t *data = malloc(size ? size : 1);            /* of its exact size: sanitizers see what is read too far */
        if (!data || fread(data, 1, size, stdin) != size) return 1;
        SvImage image;
        SvError error;
        if (sv_image_decode(data, size, "-", &image, &error))
            printf("fails %s\n", error.text);
        else
            printf("pixels %d %d %08x %s\n", image.width, image.height,
                   (unsigned)sv_crc32(0, image.rgb, (size_t)image.width * (size_t)image.height * 3), image.note.text);
        fflush(stdout);
        sv_image_free(&image);
        free(data);
    }
    return 0;
}
