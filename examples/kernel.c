/* The gradient of softmax cross-entropy as a program: kernel LOGITS LABELS GRADIENT, .npy files of float32 and int64.
 *
 *     cc -O2 -o kernel kernel.c -lm
 *     gradcheck check logits.npz --command "./kernel {logits} {labels} {gradient}"
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The data of a .npy file, behind its header, whose shape is read as rows and classes. */
static void *read_npy(const char *path, size_t size, long *rows, long *classes) {
    FILE *file = fopen(path, "rb");
    unsigned char magic[10];
    if (!file || fread(magic, 1, 10, file) != 10) { fprintf(stderr, "%s: no .npy file\n", path); exit(2); }
    size_t length = magic[8] + 256u * magic[9];
    char *header = calloc(length + 1, 1);
    if (fread(header, 1, length, file) != length) { fprintf(stderr, "%s: no header\n", path); exit(2); }
    if (!strstr(header, size == sizeof(float) ? "'<f4'" : "'<i8'")) {
        fprintf(stderr, "%s: neither float32 logits nor int64 labels\n", path);
        exit(2);
    }
    char *shape = strstr(header, "'shape': (");
    *rows = 1;
    *classes = 1;
    if (!shape || sscanf(shape, "'shape': (%ld, %ld", rows, classes) < 1) exit(2);
    free(header);
    void *data = malloc((size_t)(*rows * *classes) * size);
    if (fread(data, size, (size_t)(*rows * *classes), file) != (size_t)(*rows * *classes)) exit(2);
    fclose(file);
    return data;
}

static void write_npy(const char *path, const float *data, long rows, long classes) {
    char header[118];
    memset(header, ' ', sizeof header);
    int length = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%ld, %ld), }", rows, classes);
    header[length] = ' ';
    header[sizeof header - 1] = '\n';
    FILE *file = fopen(path, "wb");
    if (!file) { perror(path); exit(2); }
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file);
    fwrite(header, 1, sizeof header, file);
    fwrite(data, sizeof *data, (size_t)(rows * classes), file);
    fclose(file);
}

int main(int count, char **words) {
    if (count != 4) { fprintf(stderr, "usage: kernel LOGITS LABELS GRADIENT\n"); return 2; }
    long rows, classes, one;
    float *logits = read_npy(words[1], sizeof(float), &rows, &classes);
    int64_t *labels = read_npy(words[2], sizeof(int64_t), &rows, &one);
    for (long n = 0; n < rows; n++) {
        float *row = logits + n * classes, largest = row[0];
        double total = 0; /* in float, each of thousands of additions would round */
        for (long i = 1; i < classes; i++) if (row[i] > largest) largest = row[i];
        for (long i = 0; i < classes; i++) total += row[i] = expf(row[i] - largest);
        for (long i = 0; i < classes; i++) row[i] = (float)(row[i] / total) - (labels[n] == i);
    }
    write_npy(words[3], logits, rows, classes);
    return 0;
}
