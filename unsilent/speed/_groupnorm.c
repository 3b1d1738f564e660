/* GroupNorm, swish and quantisation to uint8 in two passes over an image: the input of an int8 convolution.
 *
 * What is computed. out = round(swish(group_norm(x)) / step + zero), with one `step` and `zero` for the whole
 * image, such that 0 to 255 span the minimum of swish (-0.278) to the largest value of this image. Pass 1
 * gathers sums, squares and extremes of each channel. From those `solve` derives each channel's factor and shift,
 * and `step` and `zero`: swish is monotone above its minimum, so the largest value follows from the extremes. Pass
 * 2 normalises, activates, quantises.
 *
 * Memory layout. All arrays are contiguous, the last axis is the fastest:
 *   x                             [places][channels]    float32 or bfloat16; places are height * width, channels last
 *   out                           [places][channels]    uint8
 *   weight, bias, factor, shift   [channels]
 *   first                         [channels]            values of the first place, subtracted from all places in pass 1
 *   statistics                    [chunks][sum, square, low, high][channels]
 * A chunk is 512 places, the unit of work of a thread.
 *
 * Threads. The caller's thread, or the team that `GOMP_parallel` of torch's OpenMP starts; the members claim chunks
 * from counters. Whoever completes the last chunk of pass 1 runs `solve`, the others yield until it is done. Chunks
 * are summed in their order, so results do not depend on the number of threads.
 *
 * Lifetime. Nothing outlives a call. cpu_groupnorm.py is the only caller; calls may come from several threads at
 * once.
 *
 * NaN. As in _transformer.c: weights must be finite; checkpoints/store.py checks this at loading. Both C files are
 * compiled with -ffinite-math-only, so results for NaN or infinity are undefined.
 *
 * For AVX-512 only, because int8 convolutions are fast only on such processors. exp and 1 / x are approximated with
 * a relative error of 6e-5.
 */

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* Values that library.py compares at loading: the version of the exported functions' arguments, then 0. */
uint64_t unsilent_abi(int32_t which) { return which == 0 ? 1 : 0; }

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl")))
#define INLINE static inline __attribute__((always_inline))
#define CHUNK 512              /* places per chunk; sums within a chunk are float32 */
#define BLOCK 16               /* channels in a register */
#define SWISH_MINIMUM 0.2784645f /* negated */
#define ALONE (1 << 21)        /* elements; below this, waking threads costs more than it saves */

/* Channel statistics of one chunk, of differences from the first place so that a large mean loses no precision. */
typedef struct {
    float *sum, *square, *low, *high;
} Statistics;

typedef struct {
    const void *x;
    int is_bfloat16, channels, groups, chunks;
    int64_t places;
    const float *weight, *bias;
    float epsilon;
    uint8_t *out;
    float step;   /* distance between adjacent levels */
    int32_t zero; /* the level of 0 */
    float *first, *statistics, *factor, *shift;
    atomic_int gathered, done, is_solved, written; /* pass 1: chunks claimed, completed; flag; pass 2: chunks claimed */
} Image;

/* GNU OpenMP's GOMP_parallel. */
typedef void (*Team)(void (*work)(void *), void *argument, unsigned threads, unsigned flags);

/* Elements n to n + 15. */
WIDE INLINE __m512 load(const void *x, size_t n, const int is_bfloat16) {
    if (!is_bfloat16) return _mm512_loadu_ps((const float *)x + n);
    const __m256i bits = _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + n));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static Statistics statistics_of(const Image *image, int chunk) {
    const int n = image->channels;
    float *at = image->statistics + (size_t)chunk * 4 * n;
    return (Statistics){at, at + n, at + 2 * n, at + 3 * n};
}

/* End of a chunk: the place after its last. */
static size_t stop_of(const Image *image, size_t start) {
    return start + CHUNK < (size_t)image->places ? start + CHUNK : (size_t)image->places;
}

/* ---- pass 1 ---- */

/* Statistics of `n` registers of channels. */
WIDE INLINE void gather_blocks(const Image *image, size_t start, size_t stop, int channel, Statistics out, const int n,
                               const int is_bfloat16) {
    __m512 first[4], sum[4], square[4], low[4], high[4];
    for (int j = 0; j < n; j++) {
        const size_t at = start * image->channels + channel + BLOCK * j;
        first[j] = _mm512_loadu_ps(image->first + channel + BLOCK * j);
        sum[j] = square[j] = _mm512_setzero_ps();
        low[j] = high[j] = _mm512_sub_ps(load(image->x, at, is_bfloat16), first[j]);
    }
    for (size_t place = start; place < stop; place++)
        for (int j = 0; j < n; j++) {
            const size_t at = place * image->channels + channel + BLOCK * j;
            const __m512 x = _mm512_sub_ps(load(image->x, at, is_bfloat16), first[j]);
            sum[j] = _mm512_add_ps(sum[j], x);
            square[j] = _mm512_fmadd_ps(x, x, square[j]);
            low[j] = _mm512_min_ps(low[j], x);
            high[j] = _mm512_max_ps(high[j], x);
        }
    for (int j = 0; j < n; j++) {
        _mm512_storeu_ps(out.sum + channel + BLOCK * j, sum[j]);
        _mm512_storeu_ps(out.square + channel + BLOCK * j, square[j]);
        _mm512_storeu_ps(out.low + channel + BLOCK * j, low[j]);
        _mm512_storeu_ps(out.high + channel + BLOCK * j, high[j]);
    }
}

WIDE INLINE void gather_chunk(const Image *image, int chunk, const int is_bfloat16) {
    const size_t start = (size_t)chunk * CHUNK, stop = stop_of(image, start);
    const Statistics out = statistics_of(image, chunk);
    int channel = 0;
    for (; channel + 4 * BLOCK <= image->channels; channel += 4 * BLOCK)
        gather_blocks(image, start, stop, channel, out, 4, is_bfloat16);
    for (; channel < image->channels; channel += BLOCK)
        gather_blocks(image, start, stop, channel, out, 1, is_bfloat16);
}

/* ---- between the passes ---- */

/* Derive each channel's factor and shift, and the image's step and zero, from the statistics of all chunks in order. */
static void solve(Image *image) {
    const int n = image->channels / image->groups;
    const double places = image->places;
    float top = 0;
    for (int group = 0; group < image->groups; group++) {
        double mean = 0, square = 0;
        for (int c = group * n; c < (group + 1) * n; c++) {
            double sum = 0, squares = 0;
            for (int chunk = 0; chunk < image->chunks; chunk++) {
                const Statistics found = statistics_of(image, chunk);
                sum += found.sum[c], squares += found.square[c];
            }
            const double first = image->first[c];
            mean += (first + sum / places) / n;
            square += (first * first + (2 * first * sum + squares) / places) / n;
        }
        const double variance = square > mean * mean ? square - mean * mean : 0;
        for (int c = group * n; c < (group + 1) * n; c++) {
            const float factor = image->factor[c] = image->weight[c] / sqrt(variance + image->epsilon);
            const float shift = image->shift[c] = image->bias[c] - mean * factor;
            for (int chunk = 0; chunk < image->chunks; chunk++) {
                const Statistics found = statistics_of(image, chunk);
                const float largest = factor * (image->first[c] + (factor > 0 ? found.high[c] : found.low[c])) + shift;
                const float swish = largest / (1 + expf(-largest));
                top = swish > top ? swish : top;
            }
        }
    }
    image->step = (top + SWISH_MINIMUM) / 255;
    image->zero = (int32_t)(SWISH_MINIMUM / image->step + 0.5f);
}

/* ---- pass 2 ---- */

/* exp(x) with a relative error of 6e-5. */
WIDE INLINE __m512 exponential(__m512 x) {
    const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 integer = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_mul_ps(_mm512_sub_ps(scaled, integer), _mm512_set1_ps(0.693147181f));
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.0416666667f), _mm512_set1_ps(0.166666667f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, integer);
}

WIDE INLINE void write_chunk(const Image *image, int chunk, const int is_bfloat16) {
    const size_t start = (size_t)chunk * CHUNK, stop = stop_of(image, start);
    const __m512 one = _mm512_set1_ps(1), inverse = _mm512_set1_ps(1 / image->step);
    const __m512 zero = _mm512_set1_ps((float)image->zero);
    for (size_t place = start; place < stop; place++)
        for (int c = 0; c < image->channels; c += BLOCK) {
            const size_t at = place * image->channels + c;
            const __m512 factor = _mm512_loadu_ps(image->factor + c), shift = _mm512_loadu_ps(image->shift + c);
            const __m512 x = _mm512_fmadd_ps(load(image->x, at, is_bfloat16), factor, shift);
            const __m512 negative = _mm512_sub_ps(_mm512_setzero_ps(), x);
            const __m512 sigmoid = _mm512_rcp14_ps(_mm512_add_ps(one, exponential(negative)));
            const __m512i level = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_mul_ps(x, inverse), sigmoid, zero));
            const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(level, _mm512_setzero_si512()));
            _mm_storeu_si128((__m128i *)(image->out + at), bytes);
        }
}

/* Work of each thread of a team. */
WIDE static void work(void *argument) {
    Image *image = argument;
    for (int chunk; (chunk = atomic_fetch_add(&image->gathered, 1)) < image->chunks;) {
        image->is_bfloat16 ? gather_chunk(image, chunk, 1) : gather_chunk(image, chunk, 0);
        if (atomic_fetch_add(&image->done, 1) == image->chunks - 1) {
            solve(image);
            atomic_store(&image->is_solved, 1);
        }
    }
    while (!atomic_load(&image->is_solved)) sched_yield();
    for (int chunk; (chunk = atomic_fetch_add(&image->written, 1)) < image->chunks;)
        image->is_bfloat16 ? write_chunk(image, chunk, 1) : write_chunk(image, chunk, 0);
}

/* Whether this processor has AVX-512 F, BW and VL. */
int unsilent_has_avx512(void) {
    __builtin_cpu_init();
    const int has_vl = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    return __builtin_cpu_supports("avx512f") && has_vl;
}

/* Compute `out` such that swish(group_norm(x)) = step * (out - zero) up to half a step.
 *
 * `channels` is a multiple of 16 and of `groups`, `places` is at least 1. `team` is GOMP_parallel, or NULL for one
 * thread. Returns 0, or 1 if memory cannot be allocated. */
int unsilent_norm_swish_quantise(const void *x, int32_t is_bfloat16, int64_t places, int32_t channels, int32_t groups,
                                 const float *weight, const float *bias, float epsilon, uint8_t *out, float *step,
                                 int32_t *zero, Team team, int32_t threads) {
    Image image = {.x = x, .is_bfloat16 = is_bfloat16, .channels = channels, .groups = groups, .places = places};
    image.out = out, image.weight = weight, image.bias = bias, image.epsilon = epsilon;
    image.chunks = (int)((places + CHUNK - 1) / CHUNK);
    image.statistics = malloc(((size_t)image.chunks * 4 + 3) * channels * sizeof(float));
    if (!image.statistics) return 1;
    image.first = image.statistics + (size_t)image.chunks * 4 * channels;
    image.factor = image.first + channels, image.shift = image.factor + channels;
    for (int c = 0; c < channels; c++) {
        union { uint32_t bits; float value; } widened;
        widened.bits = is_bfloat16 ? (uint32_t)((const uint16_t *)x)[c] << 16 : ((const uint32_t *)x)[c];
        image.first[c] = widened.value;
    }
    if (team && threads > 1 && places * channels >= ALONE)
        team(work, &image, threads, 0);
    else
        work(&image);
    *step = image.step, *zero = image.zero;
    free(image.statistics);
    return 0;
}
#else
int unsilent_has_avx512(void) { return 0; }
#endif
