/* One pass of the sampler's transformer over new positions, with nothing between its operations but threads that wait for each other;
 * and the scores of codes after it.
 *
 * The mathematics is that of models/transformer.py (GPT-2 as in minGPT: norms first, exact GELU, biases everywhere); `stepper.py` packs
 * the weights, owns all memory that outlives a call, and is the only caller. Plain C11 and POSIX threads; the inner products have a second
 * form for processors with AVX-512 VNNI.
 *
 * A matrix is packed in blocks of 64 outputs: [outputs / 64][inputs][64], or for whole numbers [outputs / 64][inputs / 4][64][4], so that
 * a thread reads memory in one forward stream. Rows of activations are rounded to whole numbers by their own largest magnitude.
 */

#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define PAUSE() _mm_pause()
#else
#define PAUSE()
#endif
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONED
#endif

#define LANES 64 /* outputs of a block */
#define ROWS 4   /* rows that share a block's weights while those are in registers */
#define EPSILON 1e-5f
#define SPINS 2000 /* looks at a counter before the processor is offered to others */

enum { FLOAT32, BFLOAT16, INT8 };
enum { STORE, ADD, GELU };

typedef struct {
    const void *weight;
    const float *scale;    /* of each output, for whole numbers */
    const int32_t *offset; /* what the 128 that is added to each input adds to each output */
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

/* How far the items of one phase are. A phase ends when its items are done, whoever does them: a thread that the system has put to sleep
 * holds up nobody unless it holds an item. */
typedef struct {
    atomic_int next, done;
    char apart[56]; /* to the next cache line */
} Turn;

typedef struct Job {
    void (*work)(struct Job *, int me); /* what each thread does */
    const Stack *stack;
    const Matrix *matrix; /* to score with */
    char *memory; /* keys and values, [layers][2][batch][heads][capacity] of `kept_bytes` */
    int batch, fresh, known, capacity, rows, outputs, threads;
    float *x, *normed, *projected, *attended, *hidden, *scales, *scores, *output;
    uint8_t *whole;
    Turn *turns;
    void *scratch;
    int holders; /* threads that may still look at this job; under `lock` */
} Job;

typedef void (*Kernel)(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums);

/* Numbers that are written where so many are wanted, sixteen at a time. */
static size_t room(int n) { return ((size_t)n + 15) / 16 * 16; }

/* ---- what happens to a row ---- */

/* Comparisons rather than fmaxf, which compilers keep scalar for the sake of what is not a number. */
static inline float larger(float a, float b) { return a > b ? a : b; }

/* For x up to 0. */
static inline float exponential(float x) {
    x = larger(x, -87.0f);
    const int n = (int)(x * 1.44269504f - 0.5f);
    const float r = x - (float)n * 0.693147181f;
    const float p = 1 + r * (1 + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f + r * 0.00138888889f)))));
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

/* The error function to 1.5e-7: Abramowitz and Stegun 7.1.26. */
static inline float gelu(float x) {
    const float z = fabsf(x) * 0.707106781f, t = 1 / (1 + 0.3275911f * z);
    const float series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float tail = 0.5f * series * exponential(-z * z);
    return x * (x < 0 ? tail : 1 - tail);
}

CLONED static void normalise(const float *x, const float *weight, const float *bias, int width, float *out) {
    float mean = 0, variance = 0;
    for (int i = 0; i < width; i++) mean += x[i];
    mean /= width;
    for (int i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
    const float factor = 1 / sqrtf(variance / width + EPSILON);
    for (int i = 0; i < width; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

/* Round to whole numbers around 128; gives the size of one step. */
CLONED static float round_row(const float *x, int width, uint8_t *whole) {
    float largest = 1e-30f;
    for (int i = 0; i < width; i++) largest = larger(largest, fabsf(x[i]));
    const float inverse = 127 / largest;
    for (int i = 0; i < width; i++) whole[i] = (uint8_t)(x[i] * inverse + 128.5f);
    return largest / 127;
}

/* Scores, times a factor, to shares that add up to one. */
CLONED static void softmax(float *scores, int n, float scale) {
    float highest = scores[0], total = 0;
    for (int t = 0; t < n; t++) highest = larger(highest, scores[t]);
    for (int t = 0; t < n; t++) scores[t] = exponential((scores[t] - highest) * scale);
    for (int t = 0; t < n; t++) total += scores[t];
    const float factor = 1 / total;
    for (int t = 0; t < n; t++) scores[t] *= factor;
}

/* ---- what a head keeps of positions, and how a position looks at it ----
 *
 * A key or value is kept in numbers of the weights' kind; whole ones are from -127 to 127, and behind them is the size of one step. */

static size_t kept_bytes(int kind, size_t dim) { return kind == FLOAT32 ? 4 * dim : kind == BFLOAT16 ? 2 * dim : dim + sizeof(float); }

/* The n-th of some numbers. */
static inline float number(const void *numbers, size_t n, int kind) {
    if (kind == FLOAT32) return ((const float *)numbers)[n];
    if (kind == INT8) return ((const int8_t *)numbers)[n];
    const uint32_t bits = (uint32_t)((const uint16_t *)numbers)[n] << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

/* What a kept number is multiplied by. */
static inline float step_of(const char *kept, int dim, int kind) {
    float step = 1;
    if (kind == INT8) memcpy(&step, kept + dim, sizeof step);
    return step;
}

CLONED static void keep(const float *x, int dim, char *kept, int kind) {
    if (kind == FLOAT32) {
        memcpy(kept, x, sizeof(float) * dim);
    } else if (kind == BFLOAT16) {
        for (int d = 0; d < dim; d++) {
            uint32_t bits;
            memcpy(&bits, x + d, 4);
            ((uint16_t *)kept)[d] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to the nearest, and to even */
        }
    } else {
        float largest = 1e-30f;
        for (int d = 0; d < dim; d++) largest = larger(largest, fabsf(x[d]));
        const float inverse = 127 / largest, step = largest / 127;
        for (int d = 0; d < dim; d++) ((int8_t *)kept)[d] = (int8_t)((int)(x[d] * inverse + 128.5f) - 128);
        memcpy(kept + dim, &step, sizeof step);
    }
}

/* How much of a position's value is taken by who looks at it, for `n` positions; `shares` has room for a multiple of sixteen. */
static void look(const float *query, const char *keys, const char *values, int n, int dim, float *shares, float *out, int kind) {
    const size_t bytes = kept_bytes(kind, dim);
    for (int t = 0; t < n; t++) {
        shares[t] = 0;
        for (int d = 0; d < dim; d++) shares[t] += query[d] * number(keys + t * bytes, d, kind);
        shares[t] *= step_of(keys + t * bytes, dim, kind);
    }
    softmax(shares, n, 1 / sqrtf((float)dim));
    memset(out, 0, sizeof(float) * dim);
    for (int t = 0; t < n; t++) {
        const float share = shares[t] * step_of(values + t * bytes, dim, kind);
        for (int d = 0; d < dim; d++) out[d] += share * number(values + t * bytes, d, kind);
    }
}

/* ---- inner products of up to four rows with 64 outputs; whole numbers give exact sums, converted to float at the end ---- */

static inline __attribute__((always_inline)) void products_floats(
    int rows, const float *input, size_t stride, const void *weight, int inputs, float *sums, const int kind) {
    memset(sums, 0, sizeof(float) * rows * LANES);
    for (int i = 0; i < inputs; i++) {
        float wide[LANES];
        for (int o = 0; o < LANES; o++) wide[o] = number(weight, (size_t)i * LANES + o, kind);
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < LANES; o++) sums[r * LANES + o] += input[r * stride + i] * wide[o];
    }
}

static void products_float32(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums) {
    products_floats(rows, input, stride, weight, inputs, sums, FLOAT32);
}

static void products_bfloat16(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums) {
    products_floats(rows, input, stride, weight, inputs, sums, BFLOAT16);
}

static void products_int8(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums) {
    for (int r = 0; r < rows; r++) {
        const int8_t *w = weight;
        const uint8_t *a = (const uint8_t *)input + r * stride;
        int32_t whole[LANES] = {0};
        for (int i = 0; i < inputs; i += 4, w += 4 * LANES)
            for (int o = 0; o < LANES; o++)
                whole[o] += a[i] * w[4 * o] + a[i + 1] * w[4 * o + 1] + a[i + 2] * w[4 * o + 2] + a[i + 3] * w[4 * o + 3];
        for (int o = 0; o < LANES; o++) ((int32_t *)sums)[r * LANES + o] = whole[o];
    }
}

#if defined(VNNI)
#define UNROLLED(name, rows, ...)       \
    switch (rows) {                     \
    case 1: name(1, __VA_ARGS__); break; \
    case 2: name(2, __VA_ARGS__); break; \
    case 3: name(3, __VA_ARGS__); break; \
    default: name(4, __VA_ARGS__);      \
    }

/* Sixteen numbers from the n-th on. */
VNNI static inline __attribute__((always_inline)) __m512 number16(const void *numbers, size_t n, const int kind) {
    if (kind == FLOAT32) return _mm512_loadu_ps((const float *)numbers + n);
    if (kind == INT8) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)((const int8_t *)numbers + n))));
    const __m256i bits = _mm256_loadu_si256((const __m256i *)((const uint16_t *)numbers + n));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

VNNI static inline __attribute__((always_inline)) void wide_floats(
    const int rows, const float *input, size_t stride, const void *weight, int inputs, float *sums, const int kind) {
    __m512 acc[ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++) acc[r][j] = _mm512_setzero_ps();
    for (size_t i = 0; i < (size_t)inputs; i++) {
        const __m512 w0 = number16(weight, i * LANES, kind), w1 = number16(weight, i * LANES + 16, kind),
                     w2 = number16(weight, i * LANES + 32, kind), w3 = number16(weight, i * LANES + 48, kind);
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

VNNI static inline __attribute__((always_inline)) void wide_int8(
    const int rows, const uint8_t *input, size_t stride, const int8_t *w, int inputs, int32_t *sums) {
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

VNNI static void vnni_float32(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums) {
    UNROLLED(wide_floats, rows, input, stride, weight, inputs, sums, FLOAT32)
}

VNNI static void vnni_bfloat16(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums) {
    UNROLLED(wide_floats, rows, input, stride, weight, inputs, sums, BFLOAT16)
}

VNNI static void vnni_int8(int rows, const void *input, size_t stride, const void *weight, int inputs, float *sums) {
    UNROLLED(wide_int8, rows, input, stride, weight, inputs, (int32_t *)sums)
}

/* The sums of sixteen vectors, side by side. */
VNNI static inline __attribute__((always_inline)) __m512 sums16(const __m512 *v) {
    __m512 two[8], four[4], eight[2];
    for (int i = 0; i < 8; i++) two[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        const __m512d one = _mm512_castps_pd(two[2 * i]), other = _mm512_castps_pd(two[2 * i + 1]);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)), _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int i = 0; i < 2; i++)
        eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x88), _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88), _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd));
}

VNNI static inline __attribute__((always_inline)) void wide_look(
    const float *query, const char *keys, const char *values, int n, const int dim, float *shares, float *out, const int kind) {
    const size_t bytes = kept_bytes(kind, dim);
    for (int t = 0; t < n; t += 16) {
        __m512 sums[16];
        float steps[16];
        for (int i = 0; i < 16; i++) {
            const char *key = keys + (t + i < n ? t + i : n - 1) * bytes;
            sums[i] = _mm512_setzero_ps();
            for (int d = 0; d < dim; d += 16) sums[i] = _mm512_fmadd_ps(_mm512_loadu_ps(query + d), number16(key, d, kind), sums[i]);
            steps[i] = step_of(key, dim, kind);
            _mm_prefetch(values + (key - keys), _MM_HINT_T0); /* on its way while keys are looked at: a head reads too little for the processor to foresee it */
        }
        _mm512_storeu_ps(shares + t, _mm512_mul_ps(sums16(sums), _mm512_loadu_ps(steps)));
    }
    softmax(shares, n, 1 / sqrtf((float)dim));
    int d = 0;
    for (; d + 64 <= dim; d += 64) {
        __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int t = 0; t < n; t++) {
            const __m512 share = _mm512_set1_ps(shares[t] * step_of(values + t * bytes, dim, kind));
            for (int j = 0; j < 4; j++) sum[j] = _mm512_fmadd_ps(share, number16(values + t * bytes, d + 16 * j, kind), sum[j]);
        }
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(out + d + 16 * j, sum[j]);
    }
    for (; d < dim; d += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (int t = 0; t < n; t++) {
            const __m512 share = _mm512_set1_ps(shares[t] * step_of(values + t * bytes, dim, kind));
            sum = _mm512_fmadd_ps(share, number16(values + t * bytes, d, kind), sum);
        }
        _mm512_storeu_ps(out + d, sum);
    }
}

VNNI static void vnni_look(const float *query, const char *keys, const char *values, int n, int dim, float *shares, float *out, int kind) {
    if (dim % 16)
        look(query, keys, values, n, dim, shares, out, kind);
    else if (kind == FLOAT32)
        wide_look(query, keys, values, n, dim, shares, out, FLOAT32);
    else if (kind == BFLOAT16)
        wide_look(query, keys, values, n, dim, shares, out, BFLOAT16);
    else if (dim == 64) /* the width of a head in the paper, with nothing to count */
        wide_look(query, keys, values, n, 64, shares, out, INT8);
    else
        wide_look(query, keys, values, n, dim, shares, out, INT8);
}
#endif

static Kernel kernels[3] = {products_float32, products_bfloat16, products_int8};
static void (*look_at)(const float *, const char *, const char *, int, int, float *, float *, int) = look;

/* Use the instructions for whole numbers if they are wanted and this processor has them; gives whether they are used. */
int unsilent_choose(int32_t wanted) {
    kernels[FLOAT32] = products_float32, kernels[BFLOAT16] = products_bfloat16, kernels[INT8] = products_int8, look_at = look;
#if defined(VNNI)
    __builtin_cpu_init();
    if (wanted && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        kernels[FLOAT32] = vnni_float32, kernels[BFLOAT16] = vnni_bfloat16, kernels[INT8] = vnni_int8, look_at = vnni_look;
        return 1;
    }
#endif
    return 0;
}

/* ---- how threads share a phase ---- */

static int take(Turn *turn, int amount) { return atomic_fetch_add(&turn->next, amount); }

static void put(Turn *turn, int amount) { atomic_fetch_add(&turn->done, amount); }

static void await(Turn *turn, int items) {
    for (int spins = 0; atomic_load(&turn->done) < items; spins++) {
        PAUSE();
        if (spins > SPINS) sched_yield();
    }
}

/* ---- phases ---- */

static void round_rows(Job *job, Turn *turn, const float *rows, int width) {
    for (int row; (row = take(turn, 1)) < job->rows; put(turn, 1))
        job->scales[row] = round_row(rows + (size_t)row * width, width, job->whole + (size_t)row * width);
    await(turn, job->rows);
}

static void normalise_rows(Job *job, Turn *turn, const float *weight, const float *bias, float *out, int is_rounded) {
    const int width = job->stack->width;
    for (int row; (row = take(turn, 1)) < job->rows; put(turn, 1)) {
        float *normed = out + (size_t)row * width;
        normalise(job->x + (size_t)row * width, weight, bias, width, normed);
        if (is_rounded) job->scales[row] = round_row(normed, width, job->whole + (size_t)row * width);
    }
    await(turn, job->rows);
}

CLONED static void finish(const Job *job, const Matrix *matrix, int row, int first, const float *sums, float *out, int what) {
    float values[LANES];
    if (job->stack->kind == INT8) {
        const int32_t *whole = (const int32_t *)sums;
        const float step = job->scales[row];
        for (int o = 0; o < LANES; o++)
            values[o] = (float)(whole[o] - matrix->offset[first + o]) * (matrix->scale[first + o] * step) + matrix->bias[first + o];
    } else {
        for (int o = 0; o < LANES; o++) values[o] = sums[o] + matrix->bias[first + o];
    }
    if (what == ADD)
        for (int o = 0; o < LANES; o++) out[o] += values[o];
    else if (what == GELU)
        for (int o = 0; o < LANES; o++) out[o] = gelu(values[o]);
    else
        memcpy(out, values, sizeof values);
}

static void multiply(Job *job, Turn *turn, const Matrix *matrix, const float *input, int inputs, float *output, int outputs, int what) {
    const int kind = job->stack->kind, n_blocks = outputs / LANES;
    const int share = n_blocks / (4 * job->threads) > 1 ? n_blocks / (4 * job->threads) : 1;
    const size_t bytes = (size_t)inputs * LANES * (kind == INT8 ? 1 : kind == BFLOAT16 ? 2 : 4);
    float sums[ROWS * LANES] __attribute__((aligned(64)));
    for (int start, stop; (start = take(turn, share)) < n_blocks; put(turn, stop - start)) {
        stop = start + share < n_blocks ? start + share : n_blocks;
        for (int block = start; block < stop; block++)
            for (int row = 0; row < job->rows; row += ROWS) {
                const int rows = job->rows - row < ROWS ? job->rows - row : ROWS;
                const size_t first = (size_t)row * inputs;
                const void *source = kind == INT8 ? (const void *)(job->whole + first) : (const void *)(input + first);
                kernels[kind](rows, source, inputs, (const char *)matrix->weight + block * bytes, inputs, sums);
                for (int r = 0; r < rows; r++)
                    finish(job, matrix, row + r, block * LANES, sums + r * LANES,
                           output + (size_t)(row + r) * outputs + block * LANES, what);
            }
    }
    await(turn, n_blocks);
}

/* All new positions of one head of one sequence: keys and values go to memory, then each position looks at itself and those before it. */
static void attend_head(Job *job, int layer, int sequence, int head, float *scores) {
    const int width = job->stack->width, kind = job->stack->kind, dim = width / job->stack->heads;
    const size_t bytes = kept_bytes(kind, dim), plane = (size_t)job->batch * job->stack->heads * job->capacity * bytes;
    char *keys = job->memory + 2 * layer * plane + ((size_t)sequence * job->stack->heads + head) * job->capacity * bytes, *values = keys + plane;
    const float *first = job->projected + (size_t)sequence * job->fresh * 3 * width + head * dim;
    for (int i = 0; i < job->fresh; i++) {
        const size_t at = (job->known + i) * bytes;
        keep(first + (size_t)i * 3 * width + width, dim, keys + at, kind);
        keep(first + (size_t)i * 3 * width + 2 * width, dim, values + at, kind);
    }
    for (int i = 0; i < job->fresh; i++) {
        float *out = job->attended + ((size_t)sequence * job->fresh + i) * width + head * dim;
        look_at(first + (size_t)i * 3 * width, keys, values, job->known + i + 1, dim, scores, out, kind);
    }
}

static void attend(Job *job, Turn *turn, int layer, int me) {
    const int heads = job->stack->heads, items = job->batch * heads;
    for (int item; (item = take(turn, 1)) < items; put(turn, 1))
        attend_head(job, layer, item / heads, item % heads, job->scores + (size_t)me * room(job->capacity));
    await(turn, items);
}

static void read_on(Job *job, int me) {
    const Stack *stack = job->stack;
    const int width = stack->width, is_rounded = stack->kind == INT8;
    Turn *turn = job->turns;
    for (int layer = 0; layer < stack->layers; layer++) {
        const Block *block = stack->blocks + layer;
        normalise_rows(job, turn++, block->norm1_weight, block->norm1_bias, job->normed, is_rounded);
        multiply(job, turn++, &block->qkv, job->normed, width, job->projected, 3 * width, STORE);
        attend(job, turn++, layer, me);
        if (is_rounded) round_rows(job, turn++, job->attended, width);
        multiply(job, turn++, &block->proj, job->attended, width, job->x, width, ADD);
        normalise_rows(job, turn++, block->norm2_weight, block->norm2_bias, job->normed, is_rounded);
        multiply(job, turn++, &block->up, job->normed, width, job->hidden, 4 * width, GELU);
        if (is_rounded) round_rows(job, turn++, job->hidden, 4 * width);
        multiply(job, turn++, &block->down, job->hidden, 4 * width, job->x, width, ADD);
    }
    normalise_rows(job, turn, stack->norm_weight, stack->norm_bias, job->output, 0);
}

static void score(Job *job, int me) {
    (void)me; /* all threads are alike */
    multiply(job, job->turns, job->matrix, job->x, job->stack->width, job->output, job->outputs, STORE);
}

/* ---- threads that wait for work; one job at a time ---- */

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t called = PTHREAD_COND_INITIALIZER;
static atomic_int calls; /* jobs so far */
static Job *current;     /* NULL between jobs; under `lock` */
static int n_workers;

static Job *make_job(int rows, int width, int layers, int threads, int capacity) {
    const size_t floats = (size_t)rows * width * (1 + 3 + 1 + 4) + rows + (size_t)threads * room(capacity);
    Job *job = calloc(1, sizeof *job);
    if (!job) return NULL;
    float *place = job->scratch = malloc(floats * sizeof *place);
    job->whole = malloc((size_t)rows * width * 4);
    job->turns = calloc((size_t)layers * 9 + 1, sizeof(Turn));
    if (!place || !job->whole || !job->turns) {
        free(place), free(job->whole), free(job->turns), free(job);
        return NULL;
    }
    job->normed = place, place += (size_t)rows * width;
    job->projected = place, place += (size_t)rows * width * 3;
    job->attended = place, place += (size_t)rows * width;
    job->hidden = place, place += (size_t)rows * width * 4;
    job->scales = place, place += rows;
    job->scores = place;
    job->rows = rows, job->threads = threads, job->holders = 1;
    return job;
}

static void let_go(Job *job) {
    pthread_mutex_lock(&lock);
    const int is_last = --job->holders == 0;
    pthread_mutex_unlock(&lock);
    if (is_last) free(job->scratch), free(job->whole), free(job->turns), free(job);
}

static void *worker(void *given) {
    const int me = (int)(intptr_t)given;
    for (int heard = 0;;) {
        for (int spins = 0; spins < SPINS && atomic_load(&calls) == heard; spins++) PAUSE();
        pthread_mutex_lock(&lock);
        while (atomic_load(&calls) == heard) pthread_cond_wait(&called, &lock);
        heard = atomic_load(&calls);
        Job *job = current && me < current->threads ? current : NULL;
        if (job) job->holders++;
        pthread_mutex_unlock(&lock);
        if (job) job->work(job, me), let_go(job);
    }
    return NULL;
}

/* A child of fork() has none of its parent's threads. */
static void forget_workers(void) {
    n_workers = 0;
    current = NULL;
    pthread_mutex_init(&order, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&called, NULL);
}

static int hire(int threads) {
    static int is_first = 1;
    if (is_first) is_first = pthread_atfork(NULL, NULL, forget_workers);
    sigset_t all, before; /* signals are for the threads of the program that calls us */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (n_workers < threads - 1) {
        pthread_t thread;
        pthread_attr_t apart;
        pthread_attr_init(&apart);
        pthread_attr_setdetachstate(&apart, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &apart, worker, (void *)(intptr_t)(n_workers + 1));
        pthread_attr_destroy(&apart);
        if (failed) break;
        n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n_workers + 1 < threads ? n_workers + 1 : threads;
}

/* Let all threads of a job work, and end it. */
static void do_job(Job *job) {
    if (job->threads > 1) {
        pthread_mutex_lock(&lock);
        current = job;
        atomic_fetch_add(&calls, 1);
        pthread_cond_broadcast(&called);
        pthread_mutex_unlock(&lock);
    }
    job->work(job, 0);
    pthread_mutex_lock(&lock);
    current = NULL;
    /* who came late still walks through what is done, and reads weights that the caller may free */
    while (job->holders > 1) {
        pthread_mutex_unlock(&lock);
        sched_yield();
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    let_go(job);
}

/* Read `fresh` embedded positions of `batch` sequences, of which `known` lie in memory already.
 *
 * x: [batch][fresh][width], overwritten. output: likewise. Gives 0, or 1 if there is no memory to work in. */
int unsilent_read(const Stack *stack, float *x, float *output, void *memory, int32_t batch, int32_t fresh, int32_t known,
                  int32_t capacity, int32_t threads) {
    pthread_mutex_lock(&order);
    Job *job = make_job(batch * fresh, stack->width, stack->layers, hire(threads), capacity);
    if (job) {
        job->work = read_on, job->stack = stack, job->memory = memory, job->x = x, job->output = output;
        job->batch = batch, job->fresh = fresh, job->known = known, job->capacity = capacity;
        do_job(job);
    }
    pthread_mutex_unlock(&order);
    return !job;
}

/* Multiply rows by a matrix of `kind`, which is not of whole numbers.
 *
 * x: [rows][width]. output: [rows][outputs]. Gives 0, or 1 if there is no memory to work in. */
int unsilent_score(const Matrix *matrix, int32_t kind, const float *x, float *output, int32_t rows, int32_t width, int32_t outputs,
                   int32_t threads) {
    const Stack stack = {.width = width, .kind = kind};
    pthread_mutex_lock(&order);
    Job *job = make_job(rows, width, 0, hire(threads), 0);
    if (job) {
        job->work = score, job->stack = &stack, job->matrix = matrix, job->x = (float *)x, job->output = output, job->outputs = outputs;
        do_job(job);
    }
    pthread_mutex_unlock(&order);
    return !job;
}
