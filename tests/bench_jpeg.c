/* bench_jpeg FILE...: measures how long each picture takes to decode, from its bytes in memory to RGB. For each it
   prints a line: CPU seconds, and the CRC-32 of the pixels. tests/bench_jpeg.py compares both with Pillow's. */
#include "../model.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file || fseek(file, 0, SEEK_END)) return 1;
        size_t size = (size_t)ftell(file);
        rewind(file);
        unsigned char *data = malloc(size);
        if (!data || fread(data, 1, size, file) != size) return 1;
        fclose(file);

        SvImage image;
        SvError error;
        clock_t start = clock();
        if (sv_image_decode(data, size, argv[i], &image, &error)) {
            fprintf(stderr, "%s\n", error.text);
            return 1;
        }
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        size_t bytes = (size_t)image.width * (size_t)image.height * 3;
        printf("%.6f %08x\n", seconds, (unsigned)sv_crc32(0, image.rgb, bytes));
        sv_image_free(&image);
        free(data);
    }
    return 0;
}
