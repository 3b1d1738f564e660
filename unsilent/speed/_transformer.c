/* The sampler's transformer and its output layer on a CPU, for inference with a KV cache.
 *
 * What is computed. `unsilent_forward` runs all layers of models/transformer.py (GPT-2 as in minGPT: pre-norm,
 * causal attention, exact GELU, biases everywhere) over `fresh` new positions of `batch` sequences, and appends
 * their keys and values to the KV cache. It serves both prefill (many positions: GEMM) and decoding (one position:
 * GEMV, limited by reading the weights). `unsilent_linear` computes logits.
 *
 * int8. Weights are symmetric with one scale per output. Before a product, each row of activations is quantised by
 * its own maximum to uint8 with a zero point of 128. Products are exact in int32. `finish_block` subtracts the
 * zero-point correction (Matrix.offset), except from the sums of AVX2 kernels, which subtract the zero point first. It
 * applies both scales, the bias and the activation in float32. Norms, softmax, GELU and residuals are float32 in every
 * kind.
 *
 * Memory layout. All arrays are contiguous, the last axis is the fastest:
 *   weight, float32 or bfloat16   [outputs / 64][inputs][64]         so that a thread reads memory sequentially
 *   weight, int8                  [outputs / 64][inputs / 4][64][4]  four inputs of one output are a lane of vpdpbusd
 *   scale, offset, bias           [outputs]
 *   KV cache                      [layers][keys, values][batch][heads][capacity][kv_bytes]
 *                                 keys and values in the weights' kind; in int8 each is followed by a float32 scale
 *   x, normed, attended, output   [batch * fresh][width]
 *   projected                     [batch * fresh][3 * width]         queries, keys, values
 *   hidden                        [batch * fresh][4 * width]
 *   quantised, row_scales         [batch * fresh][width or 4 * width], [batch * fresh]
 *   weights (of attention)        [threads][capacity, padded to 16]
 *   looked                        [batch][capacity][capacity]        weights of each position to each; NULL if not wanted
 *
 * Threads. A call is one job: the caller's thread and up to `threads - 1` workers run the same sequence of phases.
 * In each phase, threads claim items from a counter until none is left, and wait until all items are complete. A
 * thread that the system has suspended delays the others only if it has claimed an item. Every output is summed by one
 * thread in a fixed order, so results do not depend on the number of threads, on the other rows of the batch, or on
 * timing.
 *
 * Lifetime. Workers are detached, block all signals, and sleep between jobs until the process ends. A child of
 * fork() spawns its own. The thread that leaves a job last frees its scratch memory. A call returns only when all
 * workers have left its job, because the caller may then free the weights. All other memory belongs to the caller.
 *
 * Callers. cpu_transformer.py is the only caller. Calls may come from several threads; one job runs at a
 * time. `unsilent_use_kernels` chooses the kernels of the whole process and must not run during a job.
 *
 * NaN. Weights must be finite; checkpoints/store.py checks this at loading. Both C files are compiled with
 * -ffinite-math-only, so results for NaN or infinity are undefined.
 */

#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define AVX2 __attribute__((target("avx2,fma")))
#define PAUSE() _mm_pause()
#else
#define PAUSE()
#endif
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONED
#endif
#define INLINE static inline __attribute__((always_inline))

#define LANES 64 /* outputs per block */
#define ROWS 4   /* rows that are multiplied while a block's weights are in registers */
#define EPSILON 1e-5f
#define SPINS 2000 /* reads of a counter before a thread yields */

enum { FLOAT32, BFLOAT16, INT8 };
enum { STORE, ADD, GELU };
enum { PLAIN_KERNELS, AVX2_KERNELS, VNNI_KERNELS };

typedef struct {
    const void *weight;
    const float *scale;    /* int8: scale of each output's weights */
    const int32_t *offset; /* int8: zero-point correction: 128 times the sum of each output's weights */
    const float *bias;
} Matrix;

typedef struct {
    Matrix qkv, proj, up, down;
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
} Block;

typedef struct {
    int32_t layers, heads, width, kind;
    const Block *blocks;
    const float *norm_weight, *norm_bias;
} Stack;

/* Progress of one phase: items claimed and completed. */
typedef struct {
    atomic_int next, done;
    char padding[56]; /* up to the next cache line */
} Phase;

typedef struct Job {
    void (*work)(struct Job *, int me); /* work of each thread; `me` is 0 in the caller's thread */
    const Stack *stack;
    const Matrix *matrix; /* operand of `unsilent_linear` */
    char *cache;
    int batch, fresh, known, capacity, rows, outputs, threads, layer, head; /* whose weights are wanted; -1 is all */
    float *x, *normed, *projected, *attended, *hidden, *row_scales, *weights, *output, *looked;
    uint8_t *quantised;
    Phase *phases;
    void *scratch;
    int holders; /* threads inside this job; guarded by `job_lock` */
} Job;

/* Dot products of up to ROWS rows with the LANES outputs of a block: floats, or exact integers for int8. */
typedef union {
    float f[ROWS * LANES];
    int32_t i[ROWS * LANES];
} Sums;

typedef void (*Gemm)(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums);
typedef void (*Attend)(const float *query, const char *keys, const char *values, int n, int dim, float *weights,
                       float *out, int kind);

/* n rounded up to a multiple of 16. */
static size_t padded(int n) { return ((size_t)n + 15) / 16 * 16; }

/* ---- operations on one row ---- */

/* By comparison, because compilers do not vectorise fmaxf. */
static inline float maximum(float a, float b) { return a > b ? a : b; }

/* exp(x) for x <= 0. */
static inline float exponential(float x) {
    x = maximum(x, -87.0f);
    const int n = (int)(x * 1.44269504f - 0.5f);
    const float r = x - (float)n * 0.693147181f;
    const float tail = 0.0416666667f + r * (0.00833333333f + r * 0.00138888889f);
    const float p = 1 + r * (1 + r * (0.5f + r * (0.166666667f + r * tail)));
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

/* GELU with the error function to 1.5e-7: Abramowitz and Stegun 7.1.26. */
static inline float gelu(float x) {
    const float z = fabsf(x) * 0.707106781f, t = 1 / (1 + 0.3275911f * z);
    const float rest = 1.421413741f + t * (-1.453152027f + t * 1.061405429f);
    const float series = t * (0.254829592f + t * (-0.284496736f + t * rest));
    const float tail = 0.5f * series * exponential(-z * z);
    return x * (x < 0 ? tail : 1 - tail);
}

CLONED static void layer_norm(const float *x, const float *weight, const float *bias, int width, float *out) {
    float mean = 0, variance = 0;
    for (int i = 0; i < width; i++) mean += x[i];
    mean /= width;
    for (int i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
    const float factor = 1 / sqrtf(variance / width + EPSILON);
    for (int i = 0; i < width; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

/* Quantise a row to uint8 with a zero point of 128; returns the scale. */
CLONED static float quantise_row(const float *x, int width, uint8_t *quantised) {
    float largest = 1e-30f;
    for (int i = 0; i < width; i++) largest = maximum(largest, fabsf(x[i]));
    const float inverse = 127 / largest;
    for (int i = 0; i < width; i++) quantised[i] = (uint8_t)(x[i] * inverse + 128.5f);
    return largest / 127;
}

/* Softmax of `scale * scores`, in place. */
CLONED static void softmax(float *scores, int n, float scale) {
    float highest = scores[0], total = 0;
    for (int t = 0; t < n; t++) highest = maximum(highest, scores[t]);
    for (int t = 0; t < n; t++) scores[t] = exponential((scores[t] - highest) * scale);
    for (int t = 0; t < n; t++) total += scores[t];
    const float factor = 1 / total;
    for (int t = 0; t < n; t++) scores[t] *= factor;
}

/* ---- KV cache and attention of one head ---- */

/* Bytes of one key or value of `dim` elements. */
static size_t kv_bytes(int kind, size_t dim) {
    return kind == FLOAT32 ? 4 * dim : kind == BFLOAT16 ? 2 * dim : dim + sizeof(float);
}

/* Element n of an array; int8 elements are not multiplied by their scale. */
static inline float element(const void *array, size_t n, int kind) {
    if (kind == FLOAT32) return ((const float *)array)[n];
    if (kind == INT8) return ((const int8_t *)array)[n];
    const uint32_t bits = (uint32_t)((const uint16_t *)array)[n] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* The scale of a stored key or value; 1 unless int8. */
static inline float scale_of(const char *stored, int dim, int kind) {
    float scale = 1;
    if (kind == INT8) memcpy(&scale, stored + dim, sizeof scale);
    return scale;
}

CLONED static void store_kv(const float *x, int dim, char *stored, int kind) {
    if (kind == FLOAT32) {
        memcpy(stored, x, sizeof(float) * dim);
    } else if (kind == BFLOAT16) {
        for (int d = 0; d < dim; d++) {
            uint32_t bits;
            memcpy(&bits, x + d, 4);
            ((uint16_t *)stored)[d] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest even */
        }
    } else {
        float largest = 1e-30f;
        for (int d = 0; d < dim; d++) largest = maximum(largest, fabsf(x[d]));
        const float inverse = 127 / largest, scale = largest / 127;
        for (int d = 0; d < dim; d++) ((int8_t *)stored)[d] = (int8_t)((int)(x[d] * inverse + 128.5f) - 128);
        memcpy(stored + dim, &scale, sizeof scale);
    }
}

/* Attention of one query over `n` stored positions; `weights` has space for padded(n). */
static void attend_plain(const float *query, const char *keys, const char *values, int n, int dim, float *weights,
                         float *out, int kind) {
    const size_t bytes = kv_bytes(kind, dim);
    for (int t = 0; t < n; t++) {
        weights[t] = 0;
        for (int d = 0; d < dim; d++) weights[t] += query[d] * element(keys + t * bytes, d, kind);
        weights[t] *= scale_of(keys + t * bytes, dim, kind);
    }
    softmax(weights, n, 1 / sqrtf((float)dim));
    memset(out, 0, sizeof(float) * dim);
    for (int t = 0; t < n; t++) {
        const float weight = weights[t] * scale_of(values + t * bytes, dim, kind);
        for (int d = 0; d < dim; d++) out[d] += weight * element(values + t * bytes, d, kind);
    }
}

/* ---- GEMM kernels: up to four rows times one block of 64 outputs ---- */

INLINE void gemm_floats(int rows, const float *input, size_t stride, const void *weight, int inputs, float *sums,
                        const int kind) {
    memset(sums, 0, sizeof(float) * rows * LANES);
    for (int i = 0; i < inputs; i++) {
        float wide[LANES];
        for (int o = 0; o < LANES; o++) wide[o] = element(weight, (size_t)i * LANES + o, kind);
        for (int r = 0; r < rows; r++) {
            float *out = sums + (size_t)r * LANES; /* -fwrapv, Python's default, would not vectorise r * LANES + o */
            for (int o = 0; o < LANES; o++) out[o] += input[r * stride + i] * wide[o];
        }
    }
}

static void gemm_float32(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    gemm_floats(rows, input, stride, weight, inputs, sums->f, FLOAT32);
}

static void gemm_bfloat16(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    gemm_floats(rows, input, stride, weight, inputs, sums->f, BFLOAT16);
}

static void gemm_int8(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    for (int r = 0; r < rows; r++) {
        const int8_t *w = weight;
        const uint8_t *a = (const uint8_t *)input + r * stride;
        int32_t acc[LANES] = {0};
        for (int i = 0; i < inputs; i += 4, w += 4 * LANES)
            for (int o = 0; o < LANES; o++)
                acc[o] += a[i] * w[4 * o] + a[i + 1] * w[4 * o + 1] + a[i + 2] * w[4 * o + 2]
                          + a[i + 3] * w[4 * o + 3];
        for (int o = 0; o < LANES; o++) sums->i[r * LANES + o] = acc[o];
    }
}

#if defined(VNNI)
/* Call an inline function with a constant number of rows, so that its accumulators stay in registers. */
#define UNROLLED(name, rows, ...)       \
    switch (rows) {                     \
    case 1: name(1, __VA_ARGS__); break; \
    case 2: name(2, __VA_ARGS__); break; \
    case 3: name(3, __VA_ARGS__); break; \
    default: name(4, __VA_ARGS__);      \
    }

/* ---- AVX2: 8 lanes and 16 registers. Of a block's outputs, 64 are summed at once for one row, 32 for two rows, 16
 * for more, so that accumulators stay in registers. ---- */

/* Elements n to n + 7 of an array. */
AVX2 INLINE __m256 elements8(const void *array, size_t n, const int kind) {
    if (kind == FLOAT32) return _mm256_loadu_ps((const float *)array + n);
    if (kind == INT8) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)((const int8_t *)array + n));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
    const __m128i bits = _mm_loadu_si128((const __m128i *)((const uint16_t *)array + n));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

AVX2 INLINE void avx2_floats(const int rows, const float *input, size_t stride, const void *weight, int inputs,
                             float *sums, const int kind) {
    const int n = rows == 1 ? 8 : rows == 2 ? 4 : 2; /* registers per row */
    for (int first = 0; first < LANES; first += 8 * n) {
        __m256 acc[ROWS][8];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++) acc[r][j] = _mm256_setzero_ps();
        for (size_t i = 0; i < (size_t)inputs; i++)
            for (int j = 0; j < n; j++) {
                const __m256 w = elements8(weight, i * LANES + first + 8 * j, kind);
                for (int r = 0; r < rows; r++)
                    acc[r][j] = _mm256_fmadd_ps(_mm256_set1_ps(input[r * stride + i]), w, acc[r][j]);
            }
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++) _mm256_storeu_ps(sums + r * LANES + first + 8 * j, acc[r][j]);
    }
}

/* vpmaddubsw adds pairs of products of an unsigned and a signed byte with saturation to int16. So the absolute weight
 * is multiplied by the input minus its zero point, with the weight's sign: a pair is at most 2 * 127 * 128 = 32512. */
AVX2 INLINE void avx2_integers(const int rows, const uint8_t *input, size_t stride, const int8_t *weight, int inputs,
                               int32_t *sums) {
    const int n = rows == 1 ? 8 : rows == 2 ? 4 : 2; /* registers per row */
    const __m256i ones = _mm256_set1_epi16(1);
    for (int first = 0; first < LANES; first += 8 * n) {
        __m256i acc[ROWS][8];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++) acc[r][j] = _mm256_setzero_si256();
        const int8_t *w = weight + 4 * first;
        for (int i = 0; i < inputs; i += 4, w += 4 * LANES) {
            __m256i a[ROWS];
            for (int r = 0; r < rows; r++) {
                uint32_t four;
                memcpy(&four, input + r * stride + i, 4);
                a[r] = _mm256_set1_epi32((int32_t)(four ^ 0x80808080u)); /* minus 128 */
            }
            for (int j = 0; j < n; j++) {
                const __m256i signs = _mm256_loadu_si256((const __m256i *)(w + 32 * j));
                const __m256i sizes = _mm256_abs_epi8(signs);
                for (int r = 0; r < rows; r++) {
                    const __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(a[r], signs));
                    acc[r][j] = _mm256_add_epi32(acc[r][j], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++)
                _mm256_storeu_si256((__m256i *)(sums + r * LANES + first + 8 * j), acc[r][j]);
    }
}

AVX2 static void avx2_float32(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    UNROLLED(avx2_floats, rows, input, stride, weight, inputs, sums->f, FLOAT32)
}

AVX2 static void avx2_bfloat16(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    UNROLLED(avx2_floats, rows, input, stride, weight, inputs, sums->f, BFLOAT16)
}

AVX2 static void avx2_int8(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    UNROLLED(avx2_integers, rows, input, stride, weight, inputs, sums->i)
}

AVX2 INLINE float sum8(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Weighted sum of elements d to d + 8 * n - 1 of all values. */
AVX2 INLINE void add_values(const float *weights, const char *values, int count, int dim, int d, const int n,
                            float *out, const int kind) {
    const size_t bytes = kv_bytes(kind, dim);
    __m256 sum[8];
    for (int j = 0; j < n; j++) sum[j] = _mm256_setzero_ps();
    for (int t = 0; t < count; t++) {
        const char *value = values + t * bytes;
        const __m256 weight = _mm256_set1_ps(weights[t] * scale_of(value, dim, kind));
        for (int j = 0; j < n; j++) sum[j] = _mm256_fmadd_ps(weight, elements8(value, d + 8 * j, kind), sum[j]);
    }
    for (int j = 0; j < n; j++) _mm256_storeu_ps(out + d + 8 * j, sum[j]);
}

AVX2 INLINE void attend8(const float *query, const char *keys, const char *values, int n, int dim, float *weights,
                         float *out, const int kind) {
    const size_t bytes = kv_bytes(kind, dim);
    for (int t = 0; t < n; t++) {
        const char *key = keys + t * bytes;
        __m256 sum = _mm256_setzero_ps();
        for (int d = 0; d < dim; d += 8)
            sum = _mm256_fmadd_ps(_mm256_loadu_ps(query + d), elements8(key, d, kind), sum);
        weights[t] = sum8(sum) * scale_of(key, dim, kind);
    }
    softmax(weights, n, 1 / sqrtf((float)dim));
    int d = 0;
    for (; d + 64 <= dim; d += 64) add_values(weights, values, n, dim, d, 8, out, kind);
    for (; d < dim; d += 8) add_values(weights, values, n, dim, d, 1, out, kind);
}

AVX2 static void attend_avx2(const float *query, const char *keys, const char *values, int n, int dim, float *weights,
                             float *out, int kind) {
    if (dim % 8)
        attend_plain(query, keys, values, n, dim, weights, out, kind);
    else if (kind == FLOAT32)
        attend8(query, keys, values, n, dim, weights, out, FLOAT32);
    else if (kind == BFLOAT16)
        attend8(query, keys, values, n, dim, weights, out, BFLOAT16);
    else
        attend8(query, keys, values, n, dim, weights, out, INT8);
}

/* ---- AVX-512 VNNI ---- */

/* Elements n to n + 15 of an array. */
VNNI INLINE __m512 elements16(const void *array, size_t n, const int kind) {
    if (kind == FLOAT32) return _mm512_loadu_ps((const float *)array + n);
    if (kind == INT8) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)((const int8_t *)array + n));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
    const __m256i bits = _mm256_loadu_si256((const __m256i *)((const uint16_t *)array + n));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

VNNI INLINE void vnni_floats(const int rows, const float *input, size_t stride, const void *weight, int inputs,
                             float *sums, const int kind) {
    __m512 acc[ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++) acc[r][j] = _mm512_setzero_ps();
    for (size_t i = 0; i < (size_t)inputs; i++) {
        const __m512 w0 = elements16(weight, i * LANES, kind), w1 = elements16(weight, i * LANES + 16, kind),
                     w2 = elements16(weight, i * LANES + 32, kind), w3 = elements16(weight, i * LANES + 48, kind);
        for (int r = 0; r < rows; r++) {
            const __m512 a = _mm512_set1_ps(input[r * stride + i]);
            acc[r][0] = _mm512_fmadd_ps(a, w0, acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(a, w1, acc[r][1]);
            acc[r][2] = _mm512_fmadd_ps(a, w2, acc[r][2]);
            acc[r][3] = _mm512_fmadd_ps(a, w3, acc[r][3]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(sums + r * LANES + 16 * j, acc[r][j]);
}

VNNI INLINE void vnni_integers(const int rows, const uint8_t *input, size_t stride, const int8_t *w, int inputs,
                               int32_t *sums) {
    __m512i acc[ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++) acc[r][j] = _mm512_setzero_si512();
    for (int i = 0; i < inputs; i += 4, w += 4 * LANES) {
        const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64), w2 = _mm512_loadu_si512(w + 128),
                      w3 = _mm512_loadu_si512(w + 192);
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, input + r * stride + i, 4);
            const __m512i a = _mm512_set1_epi32(four);
            acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], a, w0);
            acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], a, w1);
            acc[r][2] = _mm512_dpbusd_epi32(acc[r][2], a, w2);
            acc[r][3] = _mm512_dpbusd_epi32(acc[r][3], a, w3);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++) _mm512_storeu_si512(sums + r * LANES + 16 * j, acc[r][j]);
}

VNNI static void vnni_float32(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    UNROLLED(vnni_floats, rows, input, stride, weight, inputs, sums->f, FLOAT32)
}

VNNI static void vnni_bfloat16(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    UNROLLED(vnni_floats, rows, input, stride, weight, inputs, sums->f, BFLOAT16)
}

VNNI static void vnni_int8(int rows, const void *input, size_t stride, const void *weight, int inputs, Sums *sums) {
    UNROLLED(vnni_integers, rows, input, stride, weight, inputs, sums->i)
}

/* Lane i of the result is the sum over the lanes of v[i]. */
VNNI INLINE __m512 sums16(const __m512 *v) {
    __m512 two[8], four[4], eight[2];
    for (int i = 0; i < 8; i++) {
        const __m512 low = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        const __m512 high = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
        two[i] = _mm512_add_ps(low, high);
    }
    for (int i = 0; i < 4; i++) {
        const __m512d one = _mm512_castps_pd(two[2 * i]), other = _mm512_castps_pd(two[2 * i + 1]);
        const __m512d low = _mm512_unpacklo_pd(one, other), high = _mm512_unpackhi_pd(one, other);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    for (int i = 0; i < 2; i++) {
        const __m512 one = four[2 * i], other = four[2 * i + 1];
        eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(one, other, 0x88), _mm512_shuffle_f32x4(one, other, 0xdd));
    }
    const __m512 low = _mm512_shuffle_f32x4(eight[0], eight[1], 0x88);
    const __m512 high = _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd);
    return _mm512_add_ps(low, high);
}

VNNI INLINE void attend_wide(const float *query, const char *keys, const char *values, int n, const int dim,
                             float *weights, float *out, const int kind) {
    const size_t bytes = kv_bytes(kind, dim);
    for (int t = 0; t < n; t += 16) {
        __m512 sums[16];
        float scales[16];
        for (int i = 0; i < 16; i++) {
            const char *key = keys + (t + i < n ? t + i : n - 1) * bytes;
            sums[i] = _mm512_setzero_ps();
            for (int d = 0; d < dim; d += 16)
                sums[i] = _mm512_fmadd_ps(_mm512_loadu_ps(query + d), elements16(key, d, kind), sums[i]);
            scales[i] = scale_of(key, dim, kind);
            /* prefetch values while keys are multiplied; a head is too short for hardware prefetching */
            _mm_prefetch(values + (key - keys), _MM_HINT_T0);
        }
        _mm512_storeu_ps(weights + t, _mm512_mul_ps(sums16(sums), _mm512_loadu_ps(scales)));
    }
    softmax(weights, n, 1 / sqrtf((float)dim));
    int d = 0;
    for (; d + 64 <= dim; d += 64) {
        __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int t = 0; t < n; t++) {
            const char *value = values + t * bytes;
            const __m512 weight = _mm512_set1_ps(weights[t] * scale_of(value, dim, kind));
            for (int j = 0; j < 4; j++) sum[j] = _mm512_fmadd_ps(weight, elements16(value, d + 16 * j, kind), sum[j]);
        }
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(out + d + 16 * j, sum[j]);
    }
    for (; d < dim; d += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (int t = 0; t < n; t++) {
            const __m512 weight = _mm512_set1_ps(weights[t] * scale_of(values + t * bytes, dim, kind));
            sum = _mm512_fmadd_ps(weight, elements16(values + t * bytes, d, kind), sum);
        }
        _mm512_storeu_ps(out + d, sum);
    }
}

VNNI static void attend_vnni(const float *query, const char *keys, const char *values, int n, int dim, float *weights,
                             float *out, int kind) {
    if (dim % 16)
        attend_plain(query, keys, values, n, dim, weights, out, kind);
    else if (kind == FLOAT32)
        attend_wide(query, keys, values, n, dim, weights, out, FLOAT32);
    else if (kind == BFLOAT16)
        attend_wide(query, keys, values, n, dim, weights, out, BFLOAT16);
    else if (dim == 64) /* the paper's heads: a constant `dim` unrolls the loops over it */
        attend_wide(query, keys, values, n, 64, weights, out, INT8);
    else
        attend_wide(query, keys, values, n, dim, weights, out, INT8);
}
#endif

static Gemm gemms[3] = {gemm_float32, gemm_bfloat16, gemm_int8};
static Attend attend = attend_plain;
static int32_t zero_points = 1; /* whether int8 sums contain the zero point of the inputs: 0 or 1 */

/* Use the fastest kernels that this processor supports, at most `widest`; returns those in use. */
int unsilent_use_kernels(int32_t widest) {
    gemms[FLOAT32] = gemm_float32, gemms[BFLOAT16] = gemm_bfloat16, gemms[INT8] = gemm_int8, attend = attend_plain;
    zero_points = 1;
#if defined(VNNI)
    __builtin_cpu_init();
    const int has_vl = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (widest >= VNNI_KERNELS && has_vl && __builtin_cpu_supports("avx512vnni")) {
        gemms[FLOAT32] = vnni_float32, gemms[BFLOAT16] = vnni_bfloat16, gemms[INT8] = vnni_int8, attend = attend_vnni;
        return VNNI_KERNELS;
    }
    if (widest >= AVX2_KERNELS && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        gemms[FLOAT32] = avx2_float32, gemms[BFLOAT16] = avx2_bfloat16, gemms[INT8] = avx2_int8, attend = attend_avx2;
        zero_points = 0;
        return AVX2_KERNELS;
    }
#endif
    return PLAIN_KERNELS;
}

/* ---- sharing a phase between threads ---- */

static int claim(Phase *phase, int items) { return atomic_fetch_add(&phase->next, items); }

static void complete(Phase *phase, int items) { atomic_fetch_add(&phase->done, items); }

static void await(Phase *phase, int items) {
    for (int spins = 0; atomic_load(&phase->done) < items; spins++) {
        PAUSE();
        if (spins > SPINS) sched_yield();
    }
}

/* ---- phases ---- */

static void quantise_rows(Job *job, Phase *phase, const float *rows, int width) {
    for (int row; (row = claim(phase, 1)) < job->rows; complete(phase, 1))
        job->row_scales[row] = quantise_row(rows + (size_t)row * width, width, job->quantised + (size_t)row * width);
    await(phase, job->rows);
}

static void layer_norm_rows(Job *job, Phase *phase, const float *weight, const float *bias, float *out,
                            int quantises) {
    const int width = job->stack->width;
    for (int row; (row = claim(phase, 1)) < job->rows; complete(phase, 1)) {
        float *normed = out + (size_t)row * width;
        layer_norm(job->x + (size_t)row * width, weight, bias, width, normed);
        if (quantises) job->row_scales[row] = quantise_row(normed, width, job->quantised + (size_t)row * width);
    }
    await(phase, job->rows);
}

/* Finish 64 outputs of a row, from number `first` on, given their sums (int32 or float): dequantise and add the bias;
 * then store the values, add them to `out`, or store their GELU. */
CLONED static void finish_block(const Job *job, const Matrix *matrix, int row, int first, const void *sums, float *out,
                                int what) {
    float values[LANES];
    if (job->stack->kind == INT8) {
        const int32_t *integers = sums;
        const float step = job->row_scales[row];
        for (int o = 0; o < LANES; o++) {
            const float product = (float)(integers[o] - zero_points * matrix->offset[first + o]);
            values[o] = product * (matrix->scale[first + o] * step) + matrix->bias[first + o];
        }
    } else {
        const float *floats = sums;
        for (int o = 0; o < LANES; o++) values[o] = floats[o] + matrix->bias[first + o];
    }
    if (what == ADD)
        for (int o = 0; o < LANES; o++) out[o] += values[o];
    else if (what == GELU)
        for (int o = 0; o < LANES; o++) out[o] = gelu(values[o]);
    else
        memcpy(out, values, sizeof values);
}

/* output = input times matrix plus bias. An item is one block of 64 outputs for all rows. */
static void linear(Job *job, Phase *phase, const Matrix *matrix, const float *input, int inputs, float *output,
                   int outputs, int what) {
    const int kind = job->stack->kind, n_blocks = outputs / LANES;
    const int share = n_blocks / (4 * job->threads) > 1 ? n_blocks / (4 * job->threads) : 1;
    const size_t bytes = (size_t)inputs * LANES * (kind == INT8 ? 1 : kind == BFLOAT16 ? 2 : 4);
    Sums sums __attribute__((aligned(64)));
    for (int start, stop; (start = claim(phase, share)) < n_blocks; complete(phase, stop - start)) {
        stop = start + share < n_blocks ? start + share : n_blocks;
        for (int block = start; block < stop; block++)
            for (int row = 0; row < job->rows; row += ROWS) {
                const int rows = job->rows - row < ROWS ? job->rows - row : ROWS;
                const size_t first = (size_t)row * inputs;
                const void *source = input + first, *weight = (const char *)matrix->weight + block * bytes;
                if (kind == INT8) source = job->quantised + first;
                gemms[kind](rows, source, inputs, weight, inputs, &sums);
                for (int r = 0; r < rows; r++)
                    finish_block(job, matrix, row + r, block * LANES, sums.f + r * LANES,
                                 output + (size_t)(row + r) * outputs + block * LANES, what);
            }
    }
    await(phase, n_blocks);
}

/* Add the attention weights of new position i to the recorded mean over layers and heads. */
CLONED static void record(const Job *job, int layer, int sequence, int head, int i, const float *weights) {
    if ((job->layer >= 0 && job->layer != layer) || (job->head >= 0 && job->head != head)) return;
    const int n = job->known + i + 1;
    const float share = 1.0f / ((job->layer < 0 ? job->stack->layers : 1) * (job->head < 0 ? job->stack->heads : 1));
    float *row = job->looked + ((size_t)sequence * job->capacity + n - 1) * job->capacity;
    for (int t = 0; t < n; t++) row[t] += share * weights[t];
}

/* All new positions of one head of one sequence: append keys and values to the cache, then causal attention. */
static void attend_head(Job *job, int layer, int sequence, int head, float *weights) {
    const int width = job->stack->width, heads = job->stack->heads, kind = job->stack->kind, dim = width / heads;
    const size_t bytes = kv_bytes(kind, dim), plane = (size_t)job->batch * heads * job->capacity * bytes;
    char *keys = job->cache + 2 * layer * plane + ((size_t)sequence * heads + head) * job->capacity * bytes;
    char *values = keys + plane;
    const float *first = job->projected + (size_t)sequence * job->fresh * 3 * width + head * dim;
    for (int i = 0; i < job->fresh; i++) {
        const size_t at = (job->known + i) * bytes;
        store_kv(first + (size_t)i * 3 * width + width, dim, keys + at, kind);
        store_kv(first + (size_t)i * 3 * width + 2 * width, dim, values + at, kind);
    }
    for (int i = 0; i < job->fresh; i++) {
        float *out = job->attended + ((size_t)sequence * job->fresh + i) * width + head * dim;
        attend(first + (size_t)i * 3 * width, keys, values, job->known + i + 1, dim, weights, out, kind);
        if (job->looked) record(job, layer, sequence, head, i, weights);
    }
}

/* An item is a head of a sequence or, where weights are recorded, all its heads, because their mean is summed by one
 * thread in the order of heads. */
static void attend_heads(Job *job, Phase *phase, int layer, int me) {
    const int heads = job->stack->heads, each = job->looked ? heads : 1, items = job->batch * heads / each;
    for (int item; (item = claim(phase, 1)) < items; complete(phase, 1))
        for (int head = item * each; head < (item + 1) * each; head++)
            attend_head(job, layer, head / heads, head % heads, job->weights + (size_t)me * padded(job->capacity));
    await(phase, items);
}

static void forward(Job *job, int me) {
    const Stack *stack = job->stack;
    const int width = stack->width, quantises = stack->kind == INT8;
    Phase *phase = job->phases;
    for (int layer = 0; layer < stack->layers; layer++) {
        const Block *block = stack->blocks + layer;
        layer_norm_rows(job, phase++, block->norm1_weight, block->norm1_bias, job->normed, quantises);
        linear(job, phase++, &block->qkv, job->normed, width, job->projected, 3 * width, STORE);
        attend_heads(job, phase++, layer, me);
        if (quantises) quantise_rows(job, phase++, job->attended, width);
        linear(job, phase++, &block->proj, job->attended, width, job->x, width, ADD);
        layer_norm_rows(job, phase++, block->norm2_weight, block->norm2_bias, job->normed, quantises);
        linear(job, phase++, &block->up, job->normed, width, job->hidden, 4 * width, GELU);
        if (quantises) quantise_rows(job, phase++, job->hidden, 4 * width);
        linear(job, phase++, &block->down, job->hidden, 4 * width, job->x, width, ADD);
    }
    layer_norm_rows(job, phase, stack->norm_weight, stack->norm_bias, job->output, 0);
}

static void forward_linear(Job *job, int me) {
    (void)me; /* needs no scratch per thread */
    linear(job, job->phases, job->matrix, job->x, job->stack->width, job->output, job->outputs, STORE);
}

/* ---- jobs and workers ---- */

static pthread_mutex_t entry = PTHREAD_MUTEX_INITIALIZER, job_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t job_posted = PTHREAD_COND_INITIALIZER;
static atomic_int n_jobs; /* posted so far */
static Job *current_job;  /* NULL between jobs; guarded by `job_lock` */
static int n_workers;     /* guarded by `entry` */

static Job *new_job(int rows, int width, int layers, int threads, int capacity) {
    const size_t floats = (size_t)rows * width * (1 + 3 + 1 + 4) + rows + (size_t)threads * padded(capacity);
    Job *job = calloc(1, sizeof *job);
    if (!job) return NULL;
    float *place = job->scratch = malloc(floats * sizeof *place);
    job->quantised = malloc((size_t)rows * width * 4);
    job->phases = calloc((size_t)layers * 9 + 1, sizeof(Phase));
    if (!place || !job->quantised || !job->phases) {
        free(place), free(job->quantised), free(job->phases), free(job);
        return NULL;
    }
    job->normed = place, place += (size_t)rows * width;
    job->projected = place, place += (size_t)rows * width * 3;
    job->attended = place, place += (size_t)rows * width;
    job->hidden = place, place += (size_t)rows * width * 4;
    job->row_scales = place, place += rows;
    job->weights = place;
    job->rows = rows, job->threads = threads, job->holders = 1;
    return job;
}

static void release(Job *job) {
    pthread_mutex_lock(&job_lock);
    const int is_last = --job->holders == 0;
    pthread_mutex_unlock(&job_lock);
    if (is_last) free(job->scratch), free(job->quantised), free(job->phases), free(job);
}

static void *worker(void *argument) {
    const int me = (int)(intptr_t)argument;
    for (int seen = 0;;) {
        for (int spins = 0; spins < SPINS && atomic_load(&n_jobs) == seen; spins++) PAUSE();
        pthread_mutex_lock(&job_lock);
        while (atomic_load(&n_jobs) == seen) pthread_cond_wait(&job_posted, &job_lock);
        seen = atomic_load(&n_jobs);
        Job *job = current_job && me < current_job->threads ? current_job : NULL;
        if (job) job->holders++;
        pthread_mutex_unlock(&job_lock);
        if (job) job->work(job, me), release(job);
    }
    return NULL;
}

/* A child of fork() has none of its parent's threads, but copies of locks that they may have held. */
static void reset_after_fork(void) {
    n_workers = 0;
    current_job = NULL;
    pthread_mutex_init(&entry, NULL);
    pthread_mutex_init(&job_lock, NULL);
    pthread_cond_init(&job_posted, NULL);
}

/* Start missing workers; returns the number of threads of a job, including the caller's. The caller holds `entry`. */
static int spawn(int threads) {
    static int is_registered = 0;
    if (!is_registered) is_registered = pthread_atfork(NULL, NULL, reset_after_fork) == 0;
    sigset_t all, before; /* workers inherit the mask, so that the program's own threads handle signals */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (n_workers < threads - 1) {
        pthread_t thread;
        pthread_attr_t detached;
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &detached, worker, (void *)(intptr_t)(n_workers + 1));
        pthread_attr_destroy(&detached);
        if (failed) break;
        n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n_workers + 1 < threads ? n_workers + 1 : threads;
}

/* Post a job to the workers, take part in it, and wait until all have left it. */
static void run_job(Job *job) {
    if (job->threads > 1) {
        pthread_mutex_lock(&job_lock);
        current_job = job;
        atomic_fetch_add(&n_jobs, 1);
        pthread_cond_broadcast(&job_posted);
        pthread_mutex_unlock(&job_lock);
    }
    job->work(job, 0);
    pthread_mutex_lock(&job_lock);
    current_job = NULL;
    /* wait for late workers, which may still read weights that the caller may free after this call */
    while (job->holders > 1) {
        pthread_mutex_unlock(&job_lock);
        sched_yield();
        pthread_mutex_lock(&job_lock);
    }
    pthread_mutex_unlock(&job_lock);
    release(job);
}

/* Run the transformer over `fresh` embedded positions of `batch` sequences, after `known` positions in the KV cache.
 *
 * x: [batch][fresh][width], overwritten. output: the same shape. looked: [batch][capacity][capacity], to which the
 * attention weights of a layer and head are added, or NULL; -1 is the mean of all layers or heads. Returns 0, or 1 if
 * there is no memory to work in. */
int unsilent_forward(const Stack *stack, float *x, float *output, void *cache, float *looked, int32_t batch,
                     int32_t fresh, int32_t known, int32_t capacity, int32_t layer, int32_t head, int32_t threads) {
    pthread_mutex_lock(&entry);
    Job *job = new_job(batch * fresh, stack->width, stack->layers, spawn(threads), capacity);
    if (job) {
        job->work = forward, job->stack = stack, job->cache = cache, job->x = x, job->output = output;
        job->batch = batch, job->fresh = fresh, job->known = known, job->capacity = capacity;
        job->looked = looked, job->layer = layer, job->head = head;
        run_job(job);
    }
    pthread_mutex_unlock(&entry);
    return !job;
}

/* Multiply rows by a float32 or bfloat16 matrix and add its bias.
 *
 * x: [rows][width]. output: [rows][outputs]. Returns 0, or 1 if memory cannot be allocated. */
int unsilent_linear(const Matrix *matrix, int32_t kind, const float *x, float *output, int32_t rows, int32_t width,
                    int32_t outputs, int32_t threads) {
    const Stack stack = {.width = width, .kind = kind};
    pthread_mutex_lock(&entry);
    Job *job = new_job(rows, width, 0, spawn(threads), 0);
    if (job) {
        job->work = forward_linear, job->stack = &stack, job->matrix = matrix, job->x = (float *)x;
        job->output = output, job->outputs = outputs;
        run_job(job);
    }
    pthread_mutex_unlock(&entry);
    return !job;
}

/* Values that cpu_transformer.py compares with its ctypes mirrors at loading: the version of the exported functions'
 * arguments, then sizes and offsets of the structs above, then 0. */
uint64_t unsilent_abi(int32_t which) {
    static const size_t abi[] = {
        3,
        sizeof(Matrix), offsetof(Matrix, bias),
        sizeof(Block), offsetof(Block, down), offsetof(Block, norm2_bias),
        sizeof(Stack), offsetof(Stack, kind), offsetof(Stack, blocks), offsetof(Stack, norm_bias),
    };
    return (size_t)which < sizeof abi / sizeof *abi ? abi[which] : 0;
}
