/* Group norm, swish and rounding to whole numbers, in two passes through a picture: what is in front of a convolution of whole numbers.
 *
 * `rounding.py` is the only caller. For processors with AVX-512, as convolutions of whole numbers are fast on those only.
 */

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl")))
#define INLINE static inline __attribute__((always_inline))
#define CHUNK 512             /* places that are summed in float32, and taken by one thread at a time */
#define BLOCK 16              /* channels in a register */
#define LEAST 0.2784645f      /* of swish, with its sign turned */
#define ALONE (1 << 21)       /* numbers that one thread is through with as soon as several are */

/* What is known of the channels of some places; sums are of differences from the first place, so that a large mean costs no digits. */
typedef struct {
    float *sum, *square, *low, *high;
} Seen;

typedef struct {
    const void *x; /* [places][channels], float32 or bfloat16 */
    int halves, channels, groups, chunks;
    int64_t places;
    const float *weight, *bias;
    float epsilon;
    uint8_t *out; /* [places][channels] */
    float step;   /* between whole numbers */
    int32_t zero; /* the whole number that stands for 0 */
    float *first, *seen, *factor, *shift;
    atomic_int read, done, is_known, written;
} Picture;

typedef void (*Team)(void (*work)(void *), void *given, unsigned threads, unsigned flags); /* GNU OpenMP's GOMP_parallel */

WIDE INLINE __m512 load(const void *x, size_t n, const int halves) {
    if (!halves) return _mm512_loadu_ps((const float *)x + n);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)((const uint16_t *)x + n))), 16));
}

static Seen seen_of(const Picture *picture, int chunk) {
    const int n = picture->channels;
    float *at = picture->seen + (size_t)chunk * 4 * n;
    return (Seen){at, at + n, at + 2 * n, at + 3 * n};
}

WIDE INLINE void see_blocks(const Picture *picture, size_t start, size_t stop, int channel, Seen seen, const int n, const int halves) {
    __m512 first[4], sum[4], square[4], low[4], high[4];
    for (int j = 0; j < n; j++) {
        first[j] = _mm512_loadu_ps(picture->first + channel + BLOCK * j);
        sum[j] = square[j] = _mm512_setzero_ps();
        low[j] = high[j] = _mm512_sub_ps(load(picture->x, start * picture->channels + channel + BLOCK * j, halves), first[j]);
    }
    for (size_t place = start; place < stop; place++)
        for (int j = 0; j < n; j++) {
            const __m512 x = _mm512_sub_ps(load(picture->x, place * picture->channels + channel + BLOCK * j, halves), first[j]);
            sum[j] = _mm512_add_ps(sum[j], x);
            square[j] = _mm512_fmadd_ps(x, x, square[j]);
            low[j] = _mm512_min_ps(low[j], x);
            high[j] = _mm512_max_ps(high[j], x);
        }
    for (int j = 0; j < n; j++) {
        _mm512_storeu_ps(seen.sum + channel + BLOCK * j, sum[j]);
        _mm512_storeu_ps(seen.square + channel + BLOCK * j, square[j]);
        _mm512_storeu_ps(seen.low + channel + BLOCK * j, low[j]);
        _mm512_storeu_ps(seen.high + channel + BLOCK * j, high[j]);
    }
}

WIDE INLINE void see_chunk(const Picture *picture, int chunk, const int halves) {
    const size_t start = (size_t)chunk * CHUNK, stop = start + CHUNK < (size_t)picture->places ? start + CHUNK : (size_t)picture->places;
    const Seen seen = seen_of(picture, chunk);
    int channel = 0;
    for (; channel + 4 * BLOCK <= picture->channels; channel += 4 * BLOCK) see_blocks(picture, start, stop, channel, seen, 4, halves);
    for (; channel < picture->channels; channel += BLOCK) see_blocks(picture, start, stop, channel, seen, 1, halves);
}

/* From what all chunks have seen, in their order: what normalises each channel, and what the largest number will be. */
static void know(Picture *picture) {
    const int n = picture->channels / picture->groups;
    const double places = picture->places;
    float top = 0;
    for (int group = 0; group < picture->groups; group++) {
        double mean = 0, square = 0;
        for (int c = group * n; c < (group + 1) * n; c++) {
            double sum = 0, squares = 0;
            for (int chunk = 0; chunk < picture->chunks; chunk++) {
                const Seen seen = seen_of(picture, chunk);
                sum += seen.sum[c], squares += seen.square[c];
            }
            const double first = picture->first[c];
            mean += (first + sum / places) / n;
            square += (first * first + (2 * first * sum + squares) / places) / n;
        }
        const double variance = square > mean * mean ? square - mean * mean : 0;
        if (!isfinite(square)) { /* what is no number shall not be heard as one */
            picture->step = NAN, picture->zero = 0;
            return;
        }
        for (int c = group * n; c < (group + 1) * n; c++) {
            const float factor = picture->factor[c] = picture->weight[c] / sqrt(variance + picture->epsilon);
            const float shift = picture->shift[c] = picture->bias[c] - mean * factor;
            for (int chunk = 0; chunk < picture->chunks; chunk++) {
                const Seen seen = seen_of(picture, chunk);
                const float largest = factor * (picture->first[c] + (factor > 0 ? seen.high[c] : seen.low[c])) + shift;
                const float swish = largest / (1 + expf(-largest));
                top = swish > top ? swish : top;
            }
        }
    }
    picture->step = (top + LEAST) / 255;
    picture->zero = (int32_t)(LEAST / picture->step + 0.5f);
}

/* e to the x, to 6e-5 of it. */
WIDE INLINE __m512 exponential(__m512 x) {
    const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_mul_ps(_mm512_sub_ps(scaled, whole), _mm512_set1_ps(0.693147181f));
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.0416666667f), _mm512_set1_ps(0.166666667f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, whole);
}

WIDE INLINE void write_chunk(const Picture *picture, int chunk, const int halves) {
    const size_t start = (size_t)chunk * CHUNK, stop = start + CHUNK < (size_t)picture->places ? start + CHUNK : (size_t)picture->places;
    const __m512 one = _mm512_set1_ps(1), inverse = _mm512_set1_ps(1 / picture->step), zero = _mm512_set1_ps((float)picture->zero);
    for (size_t place = start; place < stop; place++)
        for (int c = 0; c < picture->channels; c += BLOCK) {
            const size_t at = place * picture->channels + c;
            const __m512 x = _mm512_fmadd_ps(load(picture->x, at, halves), _mm512_loadu_ps(picture->factor + c), _mm512_loadu_ps(picture->shift + c));
            const __m512 share = _mm512_rcp14_ps(_mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
            const __m512i whole = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_mul_ps(x, inverse), share, zero));
            _mm_storeu_si128((__m128i *)(picture->out + at), _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512())));
        }
}

WIDE static void work(void *given) {
    Picture *picture = given;
    for (int chunk; (chunk = atomic_fetch_add(&picture->read, 1)) < picture->chunks;) {
        picture->halves ? see_chunk(picture, chunk, 1) : see_chunk(picture, chunk, 0);
        if (atomic_fetch_add(&picture->done, 1) == picture->chunks - 1) {
            know(picture);
            atomic_store(&picture->is_known, 1);
        }
    }
    while (!atomic_load(&picture->is_known)) sched_yield();
    for (int chunk; (chunk = atomic_fetch_add(&picture->written, 1)) < picture->chunks;)
        picture->halves ? write_chunk(picture, chunk, 1) : write_chunk(picture, chunk, 0);
}

/* Whether this processor can. */
int unsilent_can_round(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

/* Normalise `x` [places][channels], swish it, and round it to whole numbers from 0 to 255: swish = step * (out - zero).
 *
 * `channels` is a multiple of 16 and of `groups`, `places` not 0. `team` lets several threads do the same, or is NULL. Gives 0, or 1 if
 * there is no memory to work in. */
int unsilent_round(const void *x, int32_t halves, int64_t places, int32_t channels, int32_t groups, const float *weight, const float *bias,
                   float epsilon, uint8_t *out, float *step, int32_t *zero, Team team, int32_t threads) {
    Picture picture = {.x = x, .halves = halves, .channels = channels, .groups = groups, .places = places, .out = out};
    picture.weight = weight, picture.bias = bias, picture.epsilon = epsilon;
    picture.chunks = (int)((places + CHUNK - 1) / CHUNK);
    picture.seen = malloc(((size_t)picture.chunks * 4 + 3) * channels * sizeof(float));
    if (!picture.seen) return 1;
    picture.first = picture.seen + (size_t)picture.chunks * 4 * channels;
    picture.factor = picture.first + channels, picture.shift = picture.factor + channels;
    for (int c = 0; c < channels; c++) {
        union { uint32_t bits; float value; } wide = {halves ? (uint32_t)((const uint16_t *)x)[c] << 16 : ((const uint32_t *)x)[c]};
        picture.first[c] = wide.value;
    }
    if (team && threads > 1 && places * channels >= ALONE)
        team(work, &picture, threads, 0);
    else
        work(&picture);
    *step = picture.step, *zero = picture.zero;
    free(picture.seen);
    return 0;
}
#else
int unsilent_can_round(void) { return 0; }
#endif
