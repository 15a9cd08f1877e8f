/* decode.c: decodes many picture files in one process, for tests/fuzz_jpeg.py. It reads the files from standard input,
   each as its size, a little-endian number of 4 bytes, and then its bytes. It prints a line for each:

     pixels WIDTH HEIGHT CRC32 NOTE     CRC32: of the RGB bytes; NOTE: SvImage's note, often empty
     fails SENTENCE                     SENTENCE: the error */
#include "../model.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    uint8_t head[4];
    while (fread(head, 1, 4, stdin) == 4) {
        size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        uint8_t *data = malloc(size ? size : 1);            /* of the exact size, so that sanitizers see overruns */
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
