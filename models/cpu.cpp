// SSIU's forward pass on a CPU, in float32 or with products in bf16. models/cpu.py compiles this file, packs the weights
// and calls `ssiu_run`, or `ssiu_stream` for an image that is never whole.
//
// Run operation by operation, the network is bound by memory: each of them reads and writes maps that no cache holds.
// Here rows flow: a row of pixels goes through ESAM's sum, MSGM_3, MSGM_4, the next stage's LayerNorm, MSGM_1 and
// MSGM_2 while it lies in the cache, and only what attention and later stages need is written to a map. What is left is
// arithmetic: products of pixels with (C, C) matrices that stay in registers from their first number to their last
// (`tile`), at some 90 % of what a core can do.
//
// - Maps are (rows, pixels, C), C padded with zeros to a multiple of LANES, and so are the weights.
// - In `ssiu_run` each thread has a band of rows, and computes up to three rows on each side of it anew instead of
//   waiting for its neighbours; all threads meet twice a stage, before and after attention (`BandWorker::run`).
// - In `ssiu_stream` each stage goes down the image some rows behind the one before it, maps hold the rows between the
//   two, and a thread takes whichever stage can go on (`Stream`). Every number is the same.
// - Names and equations are those of models/ssiu.py, the plain twin of this file.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Vectors

// A tile of a product is ROWS x COLUMNS vectors that stay in registers, with COLUMNS more for the weights and one for a
// pixel's number: 29 of 32 registers, or 15 of 16.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 6, COLUMNS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6, COLUMNS = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 6, COLUMNS = 4;
#else
constexpr int LANES = 4, ROWS = 6, COLUMNS = 2;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef float Anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
inline void store(float* to, Vector x) { *reinterpret_cast<Anywhere*>(to) = x; }
typedef float Four __attribute__((vector_size(16)));
typedef float FourAnywhere __attribute__((vector_size(16), aligned(4), may_alias));
inline Four load4(const float* from) { return *reinterpret_cast<const FourAnywhere*>(from); }
inline void store4(float* to, Four x) { *reinterpret_cast<FourAnywhere*>(to) = x; }
inline Vector all(float x) { return x - Vector{}; }
// Both keep a NaN in `a`.
inline Vector larger(Vector a, Vector b) { return b > a ? b : a; }
inline Vector smaller(Vector a, Vector b) { return b < a ? b : a; }

// Lane i of the result is lane lanes[i] of `a` and, from LANES on, of `b`.
template <size_t... I, class Lane>
inline Vector shuffled(Vector a, Vector b, std::index_sequence<I...>, Lane lane) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, lane(I)...);
#else
    return __builtin_shuffle(a, b, Integers{lane(I)...});
#endif
}

constexpr auto EACH_LANE = std::make_index_sequence<LANES>();

// LANES x LANES numbers, rows and columns exchanged: blocks of HALF x HALF lanes off the diagonal change places.
template <int HALF = LANES / 2>
inline void transpose(Vector (&rows)[LANES]) {
    if constexpr (HALF > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & HALF) continue;
            const Vector upper = rows[i], lower = rows[i + HALF];
            rows[i] = shuffled(upper, lower, EACH_LANE, [](int k) { return k & HALF ? LANES + k - HALF : k; });
            rows[i + HALF] = shuffled(upper, lower, EACH_LANE, [](int k) { return k & HALF ? LANES + k : k + HALF; });
        }
        transpose<HALF / 2>(rows);
    }
}

// The sum of a vector's numbers, in every lane.
template <int HALF = LANES / 2>
inline Vector total(Vector x) {
    if constexpr (HALF > 0) return total<HALF / 2>(x + shuffled(x, x, EACH_LANE, [](int k) { return k ^ HALF; }));
    return x;
}

template <int N>
inline Vector polynomial(const float (&coefficients)[N], Vector x) {
    Vector sum = all(coefficients[N - 1]);
#pragma GCC unroll 16
    for (int i = N - 2; i >= 0; i--) sum = sum * x + coefficients[i];
    return sum;
}

// e^x for x <= 0, within 2e-7 of it relatively; 1.2e-38 below -87.
inline Vector exponential(Vector x) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    // Minimax on |r| <= ln(2) / 2, relative error 2e-9.
    constexpr float SERIES[] = {1.0f,           1.0f,           0.4999999106f,  0.166664198f,
                                0.04166822508f, 0.00837482419f, 0.00138368318f};
    x = larger(x, all(-87.0f));
    const Vector shifted = x * 1.44269504f + MAGIC;
    const Vector n = shifted - MAGIC;
    const Vector r = (x - n * LN2_HIGH) - n * LN2_LOW;
    const Integers power = (reinterpret_cast<Integers>(shifted) << 23) + (127 << 23);
    return polynomial(SERIES, r) * reinterpret_cast<Vector>(power);
}

// GELU(x) = x Phi(x) of many numbers, within 1.5e-7 max(1, |x|).
#if defined(__AVX512F__)

// max(x, 0) - g(|x|) with g(t) = t (1 - Phi(t)), in 32 pieces of degree 4 within 2e-8: processors with AVX-512 look
// coefficients up in registers, in half the time of one polynomial for all.
struct Gelu {
    static constexpr int PIECES = 2 * LANES, DEGREE = 4;
    static constexpr float END = 6, PER_PIECE = (PIECES - 0.51f) / END;  // 1 - Phi(6) is 1e-9
    Vector low[DEGREE + 1], high[DEGREE + 1];  // by power; pieces 0 .. 15 and 16 .. 31, each around its whole number

    Gelu() {
        for (int piece = 0; piece < PIECES; piece++) {
            double nodes[DEGREE + 1], values[DEGREE + 1], powers[DEGREE + 1] = {};
            for (int i = 0; i <= DEGREE; i++) {  // Chebyshev's nodes, and Newton's divided differences of g there
                nodes[i] = std::cos((2 * i + 1) * M_PI / (2 * DEGREE + 2)) / 2;
                const double t = (piece + nodes[i]) / PER_PIECE;
                values[i] = t * std::erfc(t / std::sqrt(2.0)) / 2;
            }
            for (int order = 1; order <= DEGREE; order++)
                for (int i = DEGREE; i >= order; i--)
                    values[i] = (values[i] - values[i - 1]) / (nodes[i] - nodes[i - order]);
            for (int i = DEGREE; i >= 0; i--) {  // powers <- powers (f - node) + value
                for (int k = DEGREE; k >= 0; k--) powers[k] = (k ? powers[k - 1] : values[i]) - powers[k] * nodes[i];
            }
            for (int k = 0; k <= DEGREE; k++) (piece < LANES ? low : high)[k][piece % LANES] = float(powers[k]);
        }
    }

    inline Vector operator()(Vector x) const {
        constexpr float MAGIC = 12582912.0f;  // see `exponential`
        const Vector size = smaller(larger(x, -x), all(END));
        const Vector shifted = size * PER_PIECE + MAGIC;
        const Vector f = size * PER_PIECE - (shifted - MAGIC);
        const __m512i piece = reinterpret_cast<__m512i>(shifted);
        Vector g = _mm512_permutex2var_ps(low[DEGREE], piece, high[DEGREE]);
#pragma GCC unroll 4
        for (int k = DEGREE - 1; k >= 0; k--) g = g * f + _mm512_permutex2var_ps(low[k], piece, high[k]);
        return larger(x, all(0.0f)) - g;
    }
};

#else

// Phi(x) - 1/2 is x times a polynomial in x^2, written in x^2 mapped to -1 .. 1 so that float32 can hold its terms.
// Minimax up to 5.5, where 1 - Phi is 2e-8.
struct Gelu {
    inline Vector operator()(Vector x) const {
        constexpr float END = 5.5f;
        constexpr float SERIES[] = {0.1285519302f,   -0.06417233497f, 0.04773763567f,   -0.03879280761f,
                                    0.03207011148f,  -0.02604796737f, 0.02036560886f,   -0.01500082295f,
                                    0.01022436749f,  -0.00681470800f, 0.00462760497f,   -0.00242678425f,
                                    0.000715295610f, -0.00052276230f, 0.000633106043f, -0.000238385124f};
        const Vector near = smaller(larger(x, all(-END)), all(END));
        const Vector phi = near * polynomial(SERIES, near * near * (2 / (END * END)) - 1.0f) + 0.5f;
        return x * smaller(larger(phi, all(0.0f)), all(1.0f));
    }
};

#endif

const Gelu GELU;

// ---------------------------------------------------------------------------------------------------------------------
// Products

struct Matrix {
    const float* weight;  // (depth, columns)
    const float* bias;    // (columns)
    int depth, columns;   // columns a multiple of LANES
};

// The factors of a product: numbers of float32.
struct Singles {
    static Vector everywhere(float x) { return all(x); }
    static Vector add_product(Vector sum, Vector x, Vector w) { return sum + x * w; }
    static void put(float* factors, long i, Vector x) { store(factors + i, x); }
};

// Or pairs of bf16 numbers, which lie where one of float32 would: sum + x[0] w[0] + x[1] w[1], in float32. `put` rounds
// the i-th number and those after it; as these take half the place, numbers may be exchanged for them in order.
#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;

struct Pairs {
    static Vector everywhere(float x) { return (Vector)_mm512_set1_ps(x); }  // no arithmetic, as it is no number
    static Vector add_product(Vector sum, Vector x, Vector w) {
        return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
    }
    static void put(float* factors, long i, Vector x) {
        _mm256_storeu_si256((__m256i*)(factors + i / 2), (__m256i)_mm512_cvtneps_pbh((__m512)x));
    }
};
#else
constexpr bool HAS_PAIRS = false;
using Pairs = Singles;
#endif

// x <- GELU(x), or GELU(x) factor, as factors of a product; `count` numbers, a multiple of LANES.
template <class Factors>
void gelu(float* x, long count, const float* factor = nullptr) {
    const Gelu gelu = GELU;
    if (factor)
        for (long i = 0; i < count; i += LANES) Factors::put(x, i, gelu(load(x + i)) * load(factor + i));
    else
        for (long i = 0; i < count; i += LANES) Factors::put(x, i, gelu(load(x + i)));
}

// The place one row further. The compiler must not see that they are evenly spaced: it would keep every vector's address.
template <class T>
inline T* next_row(T* place, long row) {
    place += row;
    asm("" : "+r"(place));
    return place;
}

// One tile of `product`, in registers from its first number to its last.
template <class Factors, int M, int N>
inline void tile(const float* a, long row, long step, const Matrix& matrix, int column, float* out, long out_row,
                 const float* add, const float* add_too) {
    Vector sum[M][N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
        const Vector bias = load(matrix.bias + column + n * LANES);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) sum[m][n] = bias;
    }
    for (const float* more : {add, add_too}) {
        if (!more) continue;
        const float* from = more + column;
#pragma GCC unroll 8
        for (int m = 0; m < M; m++, from = next_row(from, out_row))
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) {
                sum[m][n] += load(from + n * LANES);
                __builtin_prefetch(from + M * out_row + n * LANES);  // the next tile's
            }
    }
    const float* weight = matrix.weight + column;
    for (int k = 0; k < matrix.depth; k++, weight += matrix.columns, a += step) {
        Vector w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) w[n] = load(weight + n * LANES);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            const Vector x = Factors::everywhere(a[m * row]);
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) sum[m][n] = Factors::add_product(sum[m][n], x, w[n]);
        }
    }
    out += column;
#pragma GCC unroll 8
    for (int m = 0; m < M; m++, out = next_row(out, out_row))
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) store(out + n * LANES, sum[m][n]);
}

template <class Factors, int N>
void columns_of_product(const float* a, long row, long step, const Matrix& matrix, int column, int rows, float* out,
                        long out_row, const float* add, const float* add_too) {
    const auto move = [&](int count) {
        a += count * row, out += count * out_row, rows -= count;
        if (add) add += count * out_row;
        if (add_too) add_too += count * out_row;
    };
    for (; rows >= ROWS; move(ROWS))
        tile<Factors, ROWS, N>(a, row, step, matrix, column, out, out_row, add, add_too);
    if (rows >= 4) tile<Factors, 4, N>(a, row, step, matrix, column, out, out_row, add, add_too), move(4);
    if (rows >= 2) tile<Factors, 2, N>(a, row, step, matrix, column, out, out_row, add, add_too), move(2);
    if (rows >= 1) tile<Factors, 1, N>(a, row, step, matrix, column, out, out_row, add, add_too);
}

// out[m, n] = bias[n] + sum over k of a[m * row + k * step] weight[k, n], plus add[m, n] and add_too[m, n] where these
// are given; they lie in memory as `out` does, and may be it. Of pairs, k counts pairs.
template <class Factors = Singles>
void product(const float* a, long row, long step, const Matrix& matrix, int rows, float* out, long out_row,
             const float* add = nullptr, const float* add_too = nullptr) {
    int column = 0;
    for (; column + COLUMNS * LANES <= matrix.columns; column += COLUMNS * LANES)
        columns_of_product<Factors, COLUMNS>(a, row, step, matrix, column, rows, out, out_row, add, add_too);
    for (; column + 2 * LANES <= matrix.columns; column += 2 * LANES)
        columns_of_product<Factors, 2>(a, row, step, matrix, column, rows, out, out_row, add, add_too);
    for (; column < matrix.columns; column += LANES)
        columns_of_product<Factors, 1>(a, row, step, matrix, column, rows, out, out_row, add, add_too);
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights and memory

// `Sizes` of cpu.py; cpu_weights.py packs the weights in the order of the structs below.
struct Sizes {
    int32_t channels, true_channels;  // C with and without padding
    int32_t stages, heads, has_esam, has_moe, scale;
    int32_t height, width;  // of the input, after padding to multiples of 16
    int32_t out_height, out_width;
    int32_t threads;
    int32_t left, whole_width;  // the input is a strip: its first column, and the padded width of the image it is of
    int32_t bf16;  // the factors of 1x1 convolutions are; needs HAS_PAIRS
};

// Hands out one piece of memory after another; with no memory, it only counts.
struct Arena {
    float* memory;
    size_t used = 0;
    float* take(size_t count) {
        float* piece = memory ? memory + used : nullptr;
        used += (count + 15) / 16 * 16;
        return piece;
    }
    Matrix matrix(int depth, int columns) {
        const float* weight = take(size_t(depth) * columns);
        return {weight, take(columns), depth, columns};
    }
    // Of a 1x1 convolution.
    Matrix pointwise(const Sizes& sizes, int columns) {
        return matrix(sizes.bf16 ? sizes.channels / 2 : sizes.channels, columns);
    }
};

struct Depthwise {  // 3x3, reflect padding
    const float *taps, *bias;  // (9, C), (C)
    Depthwise(Arena& arena, int channels) : taps(arena.take(9 * channels)), bias(arena.take(channels)) {}
};

struct Gate {  // an MSGM: W_o( GELU(W_1 x) * W_c( DW3x3( W_a x ) ) )
    Matrix w_1, w_a, w_c, w_o;
    Depthwise depthwise;
    Gate(Arena& arena, const Sizes& sizes)
        : w_1(arena.pointwise(sizes, sizes.channels)),
          w_a(arena.pointwise(sizes, sizes.channels)),
          w_c(arena.pointwise(sizes, sizes.channels)),
          w_o(arena.pointwise(sizes, sizes.channels)),
          depthwise(arena, sizes.channels) {}
};

constexpr int BLOCK = 8, WINDOW = 10, QUERIES = BLOCK * BLOCK, KEYS = WINDOW * WINDOW;
constexpr float NO_BIAS[QUERIES] = {};

struct Attention {  // an ESAM
    Matrix queries, keys_values;
    const float* relative;  // (KEYS, C): what is added to the keys of a window
    Depthwise depthwise;
    Attention(Arena& arena, const Sizes& sizes)
        : queries(arena.pointwise(sizes, sizes.channels)),
          keys_values(arena.pointwise(sizes, 2 * sizes.channels)),
          relative(arena.take(KEYS * sizes.channels)),
          depthwise(arena, sizes.channels) {}
};

struct Stage {  // an SS-ReM
    const float *norm_weight, *norm_bias;
    Gate s1, s2, s4, ffn;
    std::vector<Attention> s3;  // one, or none
    Stage(Arena& arena, const Sizes& sizes)
        : norm_weight(arena.take(sizes.channels)),
          norm_bias(arena.take(sizes.channels)),
          s1(arena, sizes),
          s2(arena, sizes),
          s4(arena, sizes),
          ffn(arena, sizes) {
        if (sizes.has_esam) s3.emplace_back(arena, sizes);
    }
};

constexpr int TAPS = 32;  // 27 of the 3x3 convolution to RGB, ordered (row, column, RGB), and 5 of padding

struct Weights {
    Matrix head;  // (27, C), rows ordered (RGB, row, column)
    std::vector<Stage> stages;
    std::vector<Matrix> experts;              // fc_a, fc_b, fc_c and fuse, or none
    std::vector<std::vector<Matrix>> levels;  // [l][i * r + j] makes sub-pixel (i, j) of the l-th pixel shuffle, of r
    Matrix taps;
    const float* taps_bias;

    Weights(Arena& arena, const Sizes& sizes) : head(arena.matrix(27, sizes.channels)) {
        const int channels = sizes.channels;
        for (int t = 0; t < sizes.stages; t++) stages.emplace_back(arena, sizes);
        for (int i = 0; i < (sizes.has_moe ? 4 : 0); i++) experts.push_back(arena.pointwise(sizes, channels));
        for (int factor : sizes.scale == 4 ? std::vector<int>{2, 2} : std::vector<int>{sizes.scale}) {
            levels.emplace_back();
            for (int i = 0; i < factor * factor; i++) levels.back().push_back(arena.pointwise(sizes, channels));
        }
        taps = arena.pointwise(sizes, TAPS);
        taps_bias = arena.take(3);
    }
};

// The last `held` rows of a map, which is whole if these are all of them.
struct Map {
    float* data;
    int held;
    long row_size;
    Map(Arena& arena, int held, long row_size) : data(arena.take(held * row_size)), held(held), row_size(row_size) {}
    float* row(int i) const { return data + i % held * row_size; }
};

// The network's input: rows of three colours, the last `held` of them.
struct Image {
    const float* data;
    long plane_size, row_size;
    int held;
    const float* line(int colour, int row) const { return data + colour * plane_size + row % held * row_size; }
};

// Where output rows go, from `first` on.
struct Output {
    float* data;
    long plane_size, row_size;
    int first;
    float* line(int colour, int row) const { return data + colour * plane_size + (row - first) * row_size; }
};

// Linear interpolation of a line of `size` numbers to `out_size`, by PyTorch's rules.
struct Interpolation {
    struct Position {
        int first, second;
        float weight;  // of the second
    };
    int size;
    bool align_corners;
    float step;
    Interpolation(int size, int out_size, bool align_corners)
        : size(size), align_corners(align_corners),
          step(align_corners ? float(size - 1) / float(out_size - 1) : float(double(size) / out_size)) {}
    Position operator()(int i) const {
        const float at = align_corners ? step * float(i) : std::max((float(i) + 0.5f) * step - 0.5f, 0.0f);
        const int first = std::min(int(at), size - 1);
        return {first, std::min(first + 1, size - 1), at - float(first)};
    }
};

// The same for each number of a strip that begins at `left` and is `held` long. Where a strip ends within its line, what
// lies beyond is not there, and the nearest number stands for it.
struct Positions {
    std::vector<int> first, second;
    std::vector<float> weight;
    Positions(int size, int factor, bool align_corners, int left, int held) {
        const Interpolation interpolation(size, factor * size, align_corners);
        for (int i = 0; i < factor * held; i++) {
            const auto [one, two, part] = interpolation(factor * left + i);
            const auto within = [&](int at) { return std::min(std::max(at - left, 0), held - 1); };
            first.push_back(within(one)), second.push_back(within(two)), weight.push_back(part);
        }
    }
};

// Rows that maps hold, and how many stages have maps of their own; the others take turns in these.
struct Depths {
    int y, v, b, experts[3];
    int queries, keys_values, attended;
    int stages, attentions;
};

struct StageMaps {
    Map v, b;
    Map queries, keys_values, attended;  // of the halved map; keys and values with a frame of zeros
};

// The maps that threads share.
struct Maps {
    Map y, experts[3];
    std::vector<StageMaps> stages;
    Interpolation upsample_rows, skip_rows;  // ESAM's and the bilinear skip's
    Positions upsample_columns, skip_columns;
    Maps(Arena& arena, const Sizes& s, const Depths& depths)
        : y(arena, depths.y, long(s.width) * s.channels),
          experts{{arena, s.has_moe ? depths.experts[0] : 0, y.row_size},
                  {arena, s.has_moe ? depths.experts[1] : 0, y.row_size},
                  {arena, depths.experts[2], y.row_size}},
          upsample_rows(s.height / 2, s.height, true),
          skip_rows(s.height, s.height * s.scale, false),
          upsample_columns(s.whole_width / 2, 2, true, s.left / 2, s.width / 2),
          skip_columns(s.whole_width, s.scale, false, s.left, s.width) {
        const auto own = [&](int t, int owners, Map StageMaps::*map, int held, long row_size) {
            return t < owners ? Map(arena, held, row_size) : stages[t - owners].*map;
        };
        const int owners = s.has_esam ? depths.attentions : s.stages, any = s.has_esam;
        const long framed = (s.width / 2 + 2) * 2L * s.channels;
        for (int t = 0; t < s.stages; t++) {
            const Map v = own(t, depths.stages, &StageMaps::v, depths.v, y.row_size);
            const Map b = own(t, depths.stages, &StageMaps::b, depths.b, y.row_size);
            const Map queries = own(t, owners, &StageMaps::queries, any * depths.queries, y.row_size / 2);
            const Map keys_values = own(t, owners, &StageMaps::keys_values, any * depths.keys_values, framed);
            const Map attended = own(t, owners, &StageMaps::attended, any * depths.attended, y.row_size / 2);
            stages.push_back({v, b, queries, keys_values, attended});
        }
    }

    // The frame of zeros but for its lower edge, which `Worker::pool` draws.
    void clear_frame(const Sizes& s) const {
        const long pixel = 2L * s.channels;
        for (const StageMaps& stage : stages) {
            const Map& map = stage.keys_values;
            if (map.held) std::fill_n(map.row(0), map.row_size, 0.0f);
            for (int row = 0; row < map.held; row++) {
                std::fill_n(map.row(row), pixel, 0.0f);
                std::fill_n(map.row(row) + map.row_size - pixel, pixel, 0.0f);
            }
        }
    }
};

// Rows that wait for their neighbours below: x and W_a x of each MSGM, ESAM's output, lines of taps.
struct Rings {
    Map x_1, u_1, u_2, u_3, x_4, u_4;
    Map f_1, f_3, f_4;  // x as factors of products; in float32 x itself
    Map upsampled;
    int at_half_row[2] = {-1, -1};  // what `upsampled` holds
    Map tap_lines;
    Rings(Arena& arena, const Sizes& s, bool begins, bool finishes, bool ends)
        : Rings(arena, s, long(s.width) * s.channels, begins, finishes, ends) {}

private:
    // Of stages that are begun, of stages that are finished, and of the tail.
    Rings(Arena& arena, const Sizes& s, long row_size, int begins, int finishes, int ends)
        : x_1(arena, 2 * begins, row_size), u_1(arena, 3 * begins, row_size), u_2(arena, 3 * begins, row_size),
          u_3(arena, 3 * finishes, row_size), x_4(arena, 2 * finishes, row_size), u_4(arena, 3 * finishes, row_size),
          f_1(s.bf16 ? Map(arena, 2 * begins, row_size / 2) : x_1),
          f_3(arena, 2 * finishes, s.bf16 ? row_size / 2 : row_size),
          f_4(s.bf16 ? Map(arena, 2 * finishes, row_size / 2) : x_4),
          upsampled(arena, finishes && s.has_esam ? 2 : 0, row_size),
          tap_lines(arena, ends * (s.scale + 2), long(s.width) * s.scale * TAPS + 2 * LANES) {}
};

inline int reflect(int i, int size) { return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i; }

// Where threads wait until all have come.
class Meeting {
public:
    explicit Meeting(int threads) : threads(threads) {}
    void wait() {
        const int now = round;
        if (++arrived == threads) {
            arrived = 0;
            round++;
        } else {
            while (round == now) std::this_thread::yield();
        }
    }

private:
    const int threads;
    std::atomic<int> arrived{0}, round{0};
};

// ---------------------------------------------------------------------------------------------------------------------
// One thread's work

constexpr int SEGMENT = 16 * ROWS;  // pixels at a time, a piece of a row that with its matrices fits in the caches

// What one thread needs to work on a row of any map. `rings` are those of the map, and the caller says which.
class Worker {
public:
    Worker(Arena& arena, const Sizes& sizes, const Weights& weights, const Maps& maps)
        : size(sizes), weights(weights), maps(maps), channels(sizes.channels),
          half_height(sizes.height / 2), half_width(sizes.width / 2),
          a(arena, 1, row_size()), half_row(arena, 1, row_size() / 2),
          gate(arena.take(SEGMENT * channels)), context(arena.take(SEGMENT * channels)),
          third(arena.take(SEGMENT * channels)), pairs(arena.take(SEGMENT * channels / 2)),
          keys(arena.take(KEYS * channels)), values(arena.take(KEYS * channels)),
          queries(arena.take(QUERIES * channels)), scores(arena.take(KEYS * QUERIES)),
          tap_sums(arena.take((long(size.width) * size.scale + 2) * OF_SUMS)),
          skip(arena.take(size.width)) {}

    long row_size() const { return long(size.width) * size.channels; }

    template <class Work>
    void in_segments(int pixels, Work work) const {
        for (int start = 0; start < pixels; start += SEGMENT) work(start, std::min(SEGMENT, pixels - start));
    }

    // work(kind of factors) that this network's products take.
    template <class Work>
    void with_factors(Work work) const {
        if (size.bf16)
            work(Pairs());
        else
            work(Singles());
    }

    // A 1x1 convolution of `count` pixels, from their factors; `add` and `add_too` as in `product`.
    void pointwise(const float* factors, const Matrix& matrix, int count, float* out, long out_row,
                   const float* add = nullptr, const float* add_too = nullptr) const {
        with_factors([&](auto kind) {
            product<decltype(kind)>(factors, matrix.depth, 1, matrix, count, out, out_row, add, add_too);
        });
    }

    // x <- GELU(x), or GELU(x) factor, of `count` pixels, as factors.
    void activate(float* x, int count, const float* factor = nullptr) const {
        with_factors([&](auto kind) { gelu<decltype(kind)>(x, long(count) * channels, factor); });
    }

    // The factors of `count` pixels into `to`, which may be x and in float32 must be.
    void put_factors(const float* x, int count, float* to) const {
        if (size.bf16)
            for (long i = 0; i < long(count) * channels; i += LANES) Pairs::put(to, i, load(x + i));
    }

    // The factors of `count` pixels of a map.
    const float* factors_of(const float* x, int count) const {
        put_factors(x, count, pairs);
        return size.bf16 ? pairs : x;
    }

    // y = Conv3x3(3 -> C)(x), a row of it.
    void head(const Image& x, int row) const {
        in_segments(size.width, [&](int start, int count) {
            for (int tap = 0; tap < 27; tap++) {
                const int colour = tap / 9, dy = tap / 3 % 3 - 1, dx = tap % 3 - 1;
                const float* line = x.line(colour, reflect(row + dy, size.height));
                for (int m = 0; m < count; m++) gate[m * 27 + tap] = line[reflect(start + m + dx, size.width)];
            }
            product(gate, 27, 1, weights.head, count, maps.y.row(row) + long(start) * channels, channels);
        });
    }

    // ---- SS-ReM

    // Rows lo .. hi of stage t's v and b, which need up to three more rows of the stage before on each side.
    struct Band {
        int lo, hi;
        int first, last;        // of a
        int first_4, first_3;   // of what MSGM_4 and MSGM_3 take
        int end;                // of what MSGM_3 takes
        Band(const Sizes& size, int t, int lo, int hi) : lo(lo), hi(hi) {
            const int beyond = t == size.stages ? 0 : 1;
            first = std::max(lo - beyond, 0), last = std::min(hi + beyond, int(size.height));
            first_4 = std::max(first - 1, 0), first_3 = std::max(first - 2, 0);
            end = std::min(last + 2, int(size.height));
        }
    };

    // S3.b and the feed-forward gate of stage t - 1, then LayerNorm, S1 and S2 of stage t, whose v and b it makes, and
    // what attention takes; the first and the last stage are half of this each. An MSGM finishes a row when it has the
    // next: `row` is that of MSGM_3 (in stage 0 that of a), and rows come one after another. Calls `emit` with each row
    // of a that is finished.
    template <class Emit>
    void step(int t, int row, const Band& band, Rings& rings, Emit emit) {
        if (t == 0) return begin_stage(t, row, band.first, maps.y.row(row), rings);
        const Stage& before = weights.stages[t - 1];
        const Map &v = maps.stages[t - 1].v, &b = maps.stages[t - 1].b;
        const bool ends = t == size.stages;
        const bool expert = size.has_moe ? t % (size.stages / 3) == 0 : ends;  // else a is gone with its row
        const Map* kept = expert ? &maps.experts[3 * t / size.stages - 1] : nullptr;
        difference(t - 1, v, b, row, rings.f_3.row(row), rings);
        take(before.s4, rings.f_3.row(row), rings.u_3.row(row));
        finished(row, band.first_3, [&](int row) {
            give(before.s4, row, rings.f_3, rings.u_3, rings.x_4.row(row), b.row(row));
            put_factors(rings.x_4.row(row), size.width, rings.f_4.row(row));
            take(before.ffn, rings.f_4.row(row), rings.u_4.row(row));
            finished(row, band.first_4, [&](int row) {
                const bool inside = row >= band.lo && row < band.hi;
                float* out = kept && inside ? kept->row(row) : a.row(0);
                give(before.ffn, row, rings.f_4, rings.u_4, out, rings.x_4.row(row));
                if (!ends && row >= band.first && row < band.last) begin_stage(t, row, band.first, out, rings);
                if (inside) emit(row);
            });
        });
    }

    // A row of a: LayerNorm, MSGM_1 and MSGM_2, v = a + z + y and what attention takes from it.
    void begin_stage(int t, int row, int first, const float* a, const Rings& rings) const {
        const Stage& stage = weights.stages[t];
        const Map &v = maps.stages[t].v, &b = maps.stages[t].b;
        const Map &x_1 = rings.x_1, &f_1 = rings.f_1, &u_1 = rings.u_1, &u_2 = rings.u_2;
        normalise(stage, a, x_1.row(row));
        put_factors(x_1.row(row), size.width, f_1.row(row));
        take(stage.s1, f_1.row(row), u_1.row(row));
        take(stage.s2, f_1.row(row), u_2.row(row));
        finished(row, first, [&](int row) {
            give(stage.s1, row, f_1, u_1, v.row(row), x_1.row(row), maps.y.row(row));
            give(stage.s2, row, f_1, u_2, b.row(row));
            if (size.has_esam && row % 2) pool(t, row / 2);
        });
    }

    // Calls `emit` with the rows that can be finished now that `row` is there: the row above it, unless its own
    // neighbour above is missing, and the last row of the map, for which reflection sees to the row below.
    template <class Emit>
    void finished(int row, int first, Emit emit) const {
        if (row - 1 >= (first ? first + 1 : 0)) emit(row - 1);
        if (row == size.height - 1) emit(row);
    }

    void normalise(const Stage& stage, const float* from, float* to) const {
        for (int x = 0; x < size.width; x++, from += channels, to += channels) {
            Vector sum{}, squares{};
            for (int c = 0; c < channels; c += LANES) sum += load(from + c);
            const float mean = total(sum)[0] / size.true_channels;
            for (int c = 0; c < channels; c += LANES) {
                const Vector centred = load(from + c) - mean;
                squares += centred * centred;
            }
            const float padded = (channels - size.true_channels) * mean * mean;  // the padding is zero, not the mean
            const float scale = 1 / std::sqrt((total(squares)[0] - padded) / size.true_channels + 1e-6f);
            for (int c = 0; c < channels; c += LANES)
                store(to + c,
                      (load(from + c) - mean) * scale * load(stage.norm_weight + c) + load(stage.norm_bias + c));
        }
    }

    // ---- MSGM

    // The first half for a row: u = W_a x, x given as factors.
    void take(const Gate& msgm, const float* x, float* u) const {
        pointwise(x, msgm.w_a, size.width, u, channels);
    }

    // The second half for a row: out = MSGM(x) + add + add_too, x given as factors.
    void give(const Gate& msgm, int row, const Map& x, const Map& u, float* out, const float* add = nullptr,
              const float* add_too = nullptr) const {
        const float *above = u.row(reflect(row - 1, size.height)), *below = u.row(reflect(row + 1, size.height));
        in_segments(size.width, [&](int start, int count) {
            const long offset = long(start) * channels;
            pointwise(x.row(row) + long(start) * msgm.w_1.depth, msgm.w_1, count, gate, channels);
            with_factors([&](auto kind) {
                depthwise<decltype(kind)>(msgm.depthwise, above, u.row(row), below, size.width, start, count, third);
            });
            pointwise(third, msgm.w_c, count, context, channels);
            activate(gate, count, context);
            pointwise(gate, msgm.w_o, count, out + offset, channels, add ? add + offset : nullptr,
                      add_too ? add_too + offset : nullptr);
        });
    }

    // `count` pixels from `start` of a row that is `width` wide, as factors.
    template <class Factors>
    void depthwise(const Depthwise& conv, const float* above, const float* centre, const float* below, int width,
                   int start, int count, float* out) const {
        for (int c = 0; c < channels; c += LANES) {
            Vector taps[9];  // ordered (column, row)
#pragma GCC unroll 9
            for (int i = 0; i < 9; i++) taps[i] = load(conv.taps + (i % 3 * 3 + i / 3) * channels + c);
            const Vector bias = load(conv.bias + c);
            // A column of three pixels is looked at once, for the sums of its left, its own and its right neighbour.
            Vector left{}, own = bias;
            for (int m = -1; m <= count; m++) {
                const long at = long(reflect(start + m, width)) * channels + c;
                const Vector top = load(above + at), middle = load(centre + at), bottom = load(below + at);
                const auto with = [&](Vector sum, int i) {
                    return sum + top * taps[3 * i] + middle * taps[3 * i + 1] + bottom * taps[3 * i + 2];
                };
                if (m > 0) Factors::put(out, (m - 1L) * channels + c, with(left, 2));
                left = with(own, 1), own = with(bias, 0);
            }
        }
    }

    // ---- ESAM

    // MaxPool 2x2 and the queries, keys and values, a row of the halved map.
    void pool(int t, int row) const {
        const Attention& esam = weights.stages[t].s3[0];
        const StageMaps& to = maps.stages[t];
        if (row == half_height - 1) std::fill_n(to.keys_values.row(row + 2), to.keys_values.row_size, 0.0f);
        in_segments(half_width, [&](int start, int count) {
            const float* top = to.v.row(2 * row) + 2L * start * channels;
            const float* bottom = to.v.row(2 * row + 1) + 2L * start * channels;
            for (int m = 0; m < count; m++)
                for (int c = 0; c < channels; c += LANES) {
                    const long left = 2L * m * channels + c, right = left + channels;
                    store(gate + m * channels + c, larger(larger(load(top + left), load(top + right)),
                                                          larger(load(bottom + left), load(bottom + right))));
                }
            put_factors(gate, count, gate);
            pointwise(gate, esam.queries, count, to.queries.row(row) + long(start) * channels, channels);
            pointwise(gate, esam.keys_values, count, to.keys_values.row(row + 1) + (start + 1) * 2L * channels,
                      2 * channels);
        });
    }

    // One 8x8 block of queries and the 10x10 window around it. Keys go down and queries across in `scores`, so that the
    // softmax runs over whole vectors.
    void attend(int t, int block) const {
        const Attention& esam = weights.stages[t].s3[0];
        const StageMaps& at = maps.stages[t];
        const int across = half_width / BLOCK, top = block / across * BLOCK, left = block % across * BLOCK;
        const int dim = size.true_channels / size.heads;
        for (int row = 0, key = 0; row < WINDOW; row++) {
            const float* from = at.keys_values.row(top + row) + left * 2L * channels;
            for (const int end = key + WINDOW; key < end; key++, from += 2 * channels)
                for (int c = 0; c < channels; c += LANES) {
                    store(keys + key * channels + c, load(from + c) + load(esam.relative + key * channels + c));
                    store(values + key * channels + c, load(from + channels + c));
                }
        }
        const float scale = 1 / std::sqrt(float(dim));
        in_tiles([&](int query, int c) {
            Vector tile[LANES];
            for (int i = 0; i < LANES; i++) tile[i] = load(pixel(at.queries, top, left, query + i) + c) * scale;
            transpose(tile);
            for (int i = 0; i < LANES; i++) store(queries + (c + i) * QUERIES + query, tile[i]);
        });
        for (int head = 0; head < size.heads; head++) {
            float* own = queries + head * dim * QUERIES;  // the queries (dim, QUERIES), later what they found
            product(keys + head * dim, channels, 1, {own, NO_BIAS, dim, QUERIES}, KEYS, scores, QUERIES);
            constexpr int ACROSS = QUERIES / LANES;
            Vector peak[ACROSS], sum[ACROSS]{};
            for (int i = 0; i < ACROSS; i++) peak[i] = load(scores + i * LANES);
            for (int key = 1; key < KEYS; key++)
                for (int i = 0; i < ACROSS; i++) peak[i] = larger(peak[i], load(scores + key * QUERIES + i * LANES));
            for (int key = 0; key < KEYS; key++)
                for (int i = 0; i < ACROSS; i++) {
                    float* score = scores + key * QUERIES + i * LANES;
                    const Vector weight = exponential(load(score) - peak[i]);
                    store(score, weight);
                    sum[i] += weight;
                }
            product(values + head * dim, 1, channels, {scores, NO_BIAS, KEYS, QUERIES}, dim, own, QUERIES);
            for (int i = 0; i < ACROSS; i++) {
                const Vector inverse = 1.0f / sum[i];
                for (int c = 0; c < dim; c++) {
                    float* found = own + c * QUERIES + i * LANES;
                    store(found, load(found) * inverse);
                }
            }
        }
        in_tiles([&](int query, int c) {
            Vector tile[LANES];
            for (int i = 0; i < LANES; i++) tile[i] = load(queries + (c + i) * QUERIES + query);
            transpose(tile);
            for (int i = 0; i < LANES; i++) store(pixel(at.attended, top, left, query + i) + c, tile[i]);
        });
    }

    // Squares of LANES queries and as many channels.
    template <class Work>
    void in_tiles(Work work) const {
        for (int query = 0; query < QUERIES; query += LANES)
            for (int c = 0; c < channels; c += LANES) work(query, c);
    }

    // Where a query of the block at (top, left) lies in a map.
    float* pixel(const Map& map, int top, int left, int query) const {
        return map.row(top + query / BLOCK) + long(left + query % BLOCK) * channels;
    }

    // A row of d = v - b after v <- ESAM(v) + v: MSGM_3's input, as factors.
    void difference(int t, const Map& v, const Map& b, int row, float* out, Rings& rings) const {
        const float *from_v = v.row(row), *from_b = b.row(row);
        const auto subtract = [&](auto esam) {
            with_factors([&](auto kind) {
                for (long i = 0; i < row_size(); i += LANES)
                    kind.put(out, i, esam(i) + load(from_v + i) - load(from_b + i));
            });
        };
        if (!size.has_esam) return subtract([](long) { return Vector{}; });
        const auto at = maps.upsample_rows(row);
        const float* first = upsampled_row(t, at.first, rings);
        const float* second = upsampled_row(t, at.second, rings);
        subtract([&](long i) { return load(first + i) * (1 - at.weight) + load(second + i) * at.weight; });
    }

    // A row of the halved map after LocalProp, upsampled across. Consecutive rows ask for the same two.
    const float* upsampled_row(int t, int row, Rings& rings) const {
        float* out = rings.upsampled.row(row);
        if (rings.at_half_row[row % 2] == row) return out;
        rings.at_half_row[row % 2] = row;
        const Attention& esam = weights.stages[t].s3[0];
        const Map& o = maps.stages[t].attended;
        float* line = half_row.row(0);
        depthwise<Singles>(esam.depthwise, o.row(reflect(row - 1, half_height)), o.row(row),
                  o.row(reflect(row + 1, half_height)), half_width, 0, half_width, line);
        for (int x = 0; x < size.width; x++) {
            const float *first = line + long(maps.upsample_columns.first[x]) * channels,
                        *second = line + long(maps.upsample_columns.second[x]) * channels;
            const float weight = maps.upsample_columns.weight[x];
            for (int c = 0; c < channels; c += LANES)
                store(out + long(x) * channels + c, load(first + c) * (1 - weight) + load(second + c) * weight);
        }
        return out;
    }

    // ---- MoE-FS and the tail

    // f = MoEFS(experts) + y, `count` pixels of a row.
    void select(int row, int start, int count, float* f) const {
        const long offset = long(start) * channels;
        const float* y = maps.y.row(row) + offset;
        if (!size.has_moe) {
            const float* last = maps.experts[2].row(row) + offset;
            for (int i = 0; i < count * channels; i += LANES) store(f + i, load(last + i) + load(y + i));
            return;
        }
        const float* expert[3];
        for (int i = 0; i < 3; i++) expert[i] = maps.experts[i].row(row) + offset;
        float* const score[3] = {gate, context, third};
        for (int i = 0; i < 3; i++) pointwise(factors_of(expert[i], count), weights.experts[i], count, score[i], channels);
        for (int i = 0; i < count * channels; i += LANES) {
            const Vector a = load(score[0] + i), b = load(score[1] + i), c = load(score[2] + i);
            const Vector peak = larger(larger(a, b), c);
            const Vector to_a = exponential(a - peak), to_b = exponential(b - peak), to_c = exponential(c - peak);
            const Vector sum = to_a * load(expert[0] + i) + to_b * load(expert[1] + i) + to_c * load(expert[2] + i);
            store(gate + i, sum / (to_a + to_b + to_c));
        }
        pointwise(factors_of(gate, count), weights.experts[3], count, f, channels, gate, y);
    }

    // The rows from .. to of the s x s sub-pixels of a row, as taps. A 1x1 convolution and GELU commute with the pixel
    // shuffle, so each sub-pixel goes its own way, and the 3x3 convolution becomes a product with its 27 taps and the
    // sum of what neighbours hold for each other (`write`).
    void shuffle(int row, int from, int to, const Map& tap_lines) const {
        in_segments(size.width, [&](int start, int count) {
            static_assert(SEGMENT <= KEYS);
            float* f = keys;
            select(row, start, count, f);
            put_factors(f, count, f);
            subpixels(f, 0, 1, 0, 0, row, start, count, from, to, tap_lines);
        });
    }

    // Sub-pixels (i, j) of a grid of `grid` x `grid` and those within it, as taps, from the factors f; rows from .. to of
    // the s x s alone.
    void subpixels(const float* f, size_t level, int grid, int i, int j, int row, int start, int count, int from,
                   int to, const Map& tap_lines) const {
        const int s = size.scale;
        if (level == weights.levels.size()) {
            float* lines = tap_lines.row(row * s + i) + (long(start) * s + j) * TAPS;
            pointwise(f, weights.taps, count, lines, long(s) * TAPS);
            return;
        }
        const auto& matrices = weights.levels[level];
        const int factor = matrices.size() == 9 ? 3 : 2, finer = grid * factor, within = s / finer;
        float* g = level ? context : gate;
        for (int p = 0; p < factor; p++) {
            const int sub_row = i * factor + p;
            if ((sub_row + 1) * within <= from || sub_row * within >= to) continue;
            for (int q = 0; q < factor; q++) {
                pointwise(f, matrices[p * factor + q], count, g, channels);
                activate(g, count);
                subpixels(g, level + 1, finer, sub_row, j * factor + q, row, start, count, from, to, tap_lines);
            }
        }
    }

    // One row of the output: the 3x3 convolution's sums, its bias and the bilinear skip.
    void write(const Image& x, const Output& out, int row, const Map& tap_lines) const {
        const int wide = size.width * size.scale, high = size.height * size.scale;
        // (wide, 12) from -1 to wide: columns of taps x RGB, rows summed
        float* sums = tap_sums + OF_SUMS;
        const float* rows[3];
        for (int i = 0; i < 3; i++) rows[i] = tap_lines.row(reflect(row + i - 1, high));
        for (long column = 0; column < wide; column++)
            for (int i = 0; i < OF_SUMS; i += 4) {
                const long at = column * TAPS + i;
                store4(sums + column * OF_SUMS + i,
                       load4(rows[0] + at) + load4(rows[1] + at + 9) + load4(rows[2] + at + 18));
            }
        std::copy_n(sums + OF_SUMS, OF_SUMS, sums - OF_SUMS);
        std::copy_n(sums + (wide - 2L) * OF_SUMS, OF_SUMS, sums + long(wide) * OF_SUMS);
        for (float* sum = sums; sum < sums + long(size.out_width) * OF_SUMS; sum += OF_SUMS)  // RGB, and one to spare
            store4(sum - OF_SUMS, load4(sum - OF_SUMS) + load4(sum + 3) + load4(sum + OF_SUMS + 6));
        const auto [above, below, weight] = maps.skip_rows(row);
        for (int colour = 0; colour < 3; colour++) {
            const float *first = x.line(colour, above), *second = x.line(colour, below);
            const float bias = weights.taps_bias[colour];
            for (int i = 0; i < size.width; i++) skip[i] = first[i] * (1 - weight) + second[i] * weight;
            float* line = out.line(colour, row);
            for (int i = 0; i < size.out_width; i++) {
                const float across = maps.skip_columns.weight[i];
                const float bilinear =
                    skip[maps.skip_columns.first[i]] * (1 - across) + skip[maps.skip_columns.second[i]] * across;
                line[i] = tap_sums[long(i) * OF_SUMS + colour] + bias + bilinear;
            }
        }
    }

    static constexpr int OF_SUMS = 12;

    const Sizes& size;
    const Weights& weights;
    const Maps& maps;
    const int channels, half_height, half_width;
    Map a, half_row;
    float *gate, *context, *third;  // a segment each
    float* pairs;                   // likewise, of bf16
    float *keys, *values, *queries, *scores;
    float *tap_sums, *skip;
};

// ---------------------------------------------------------------------------------------------------------------------
// Whole maps

Depths whole_maps(const Sizes& s) {
    const int height = s.height, half = height / 2;
    return {height, height, height, {height, height, height}, half, half + 2, half, 2, 1};
}

// A thread with its band of rows of each map.
class BandWorker {
public:
    BandWorker(Arena& arena, const Sizes& sizes, const Weights& weights, const Maps& maps, int index)
        : size(sizes), index(index), worker(arena, sizes, weights, maps), rings(arena, sizes, true, true, true) {}

    // The forward pass of one image, x (3, H, W) -> out (3, out_height, out_width); every thread calls it.
    void run(const Image& x, const Output& out, Meeting& meeting) {
        const auto share = [&](int total, int i) { return int(long(total) * i / size.threads); };
        // Pairs of rows: ESAM halves the map.
        const int lo = 2 * share(size.height / 2, index), hi = 2 * share(size.height / 2, index + 1);
        for (int row = lo; row < hi; row++) worker.head(x, row);
        meeting.wait();
        for (int t = 0; t < size.stages; t++) {
            stage(t, lo, hi);
            meeting.wait();
            if (!size.has_esam) continue;
            const int blocks = size.height * size.width / (4 * QUERIES);
            for (int i = share(blocks, index); i < share(blocks, index + 1); i++) worker.attend(t, i);
            meeting.wait();
        }
        // The last rows may be padding alone. The tail looks one row further down than it writes.
        const int rows = size.out_height / size.scale, seen = std::min(rows + 1, int(size.height));
        stage(size.stages, share(seen, index), share(seen, index + 1));
        meeting.wait();
        tail(x, out, share(rows, index), share(rows, index + 1), seen);
        meeting.wait();
    }

private:
    void stage(int t, int lo, int hi) {
        const Worker::Band band(size, t, lo, hi);
        rings.at_half_row[0] = rings.at_half_row[1] = -1;
        const int first = t ? band.first_3 : band.first, end = t ? band.end : band.last;
        for (int row = first; row < end; row++) worker.step(t, row, band, rings, [](int) {});
    }

    // Output rows of the input rows lo .. hi.
    void tail(const Image& x, const Output& out, int lo, int hi, int seen) {
        const int s = size.scale;
        int next = lo * s;
        for (int row = std::max(lo - 1, 0); row < std::min(hi + 1, seen); row++) {
            const int from = row < lo ? s - 1 : 0, to = row >= hi ? 1 : s;
            worker.shuffle(row, from, to, rings.tap_lines);
            const int known = row * s + to - 1;
            for (; next < hi * s && (next < known || next == size.height * s - 1); next++)
                worker.write(x, out, next, rings.tap_lines);
        }
    }

    const Sizes& size;
    const int index;
    Worker worker;
    Rings rings;
};

struct Plan {
    Maps maps;
    std::vector<BandWorker> workers;
    Plan(Arena& arena, const Sizes& sizes, const Weights& weights) : maps(arena, sizes, whole_maps(sizes)) {
        workers.reserve(sizes.threads);
        for (int i = 0; i < sizes.threads; i++) workers.emplace_back(arena, sizes, weights, maps, i);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Rows on demand

constexpr int CHUNK = 2 * BLOCK;  // rows of the input that belong to a row of attention's blocks

// How far apart lanes of a `Stream` may be, which is what its rings are as long as.
struct Distances {
    int next;  // chunks that a lane may be ahead of what its next lane begins; with 1, these two never run at once
    int last;  // chunks that a lane may be ahead of where the last one needs it: one for every wave of work at once
    explicit Distances(const Sizes& s) : next(s.threads > 1 ? 2 : 1), last(s.threads > 1 ? s.threads : 0) {}
};

Depths rings_of_rows(const Sizes& s) {
    const Distances distance(s);
    const auto until_last = [&](int t) { return CHUNK * (s.stages - t + distance.last) + CHUNK; };
    const int third = s.stages / 3;
    return {until_last(0), CHUNK * distance.next + 13, CHUNK * distance.next + 14,
            {until_last(third), until_last(2 * third), 1},
            BLOCK + 1, WINDOW, BLOCK * distance.next + 4, s.stages, s.stages};
}

// Rows of the input between the last that is read and the first that the tail still looks at.
int rows_in_flight(const Sizes& s) { return CHUNK * (s.stages + Distances(s).last + 4); }

// Reflection at both ends as often as it takes, for i >= 0.
inline int reflect_often(int i, int size) {
    const int period = std::max(2 * (size - 1), 1), within = i % period;
    return std::min(within, period - within);
}

// `count` rows from `first` of an image as (3, count, width): asked for, or handed out. Not 0 ends the work.
typedef int32_t (*ReadRows)(int32_t first, int32_t count, float* rows);
typedef int32_t (*WriteRows)(int32_t first, int32_t count, const float* rows);

// The forward pass of an image that is never whole: rows are asked for and handed out in order.
//
// - Stages are lanes that run behind one another, each through chunks of rows, top to bottom. `Worker::step` goes on
//   where the lane's last chunk stopped, so nothing is computed twice, and every number is that of whole maps.
// - Chunk c ends where rows of a up to 16 c + 10 are known: MSGM_3 has then taken rows up to 16 c + 12, the last that
//   see no further than the c-th row of attention's blocks of the stage before; that one looks at rows of v up to
//   16 c + 17, which its chunk c + 1 finishes. The last chunk, one more than there are rows of blocks, is what is left.
// - A lane's chunk is ready when its rows are there and nobody needs any more what it will overwrite in the rings.
//   Threads take what is ready, from the last lane to the first. The calling thread alone reads and writes.
class Stream {
public:
    Stream(Arena& arena, const Sizes& sizes, const Weights& weights, ReadRows read, WriteRows write)
        : size(sizes), distance(sizes), last_chunk(sizes.height / CHUNK), true_height(sizes.out_height / sizes.scale),
          true_width(sizes.out_width / sizes.scale), seen(std::min(true_height + 1, int(sizes.height))),
          read_rows(read), write_rows(write), maps(arena, sizes, rings_of_rows(sizes)),
          x(arena, rows_in_flight(sizes), 3L * sizes.width),
          incoming(arena.take(3L * CHUNK * sizes.width)) {
        for (auto& buffer : outgoing) buffer = arena.take(3L * (CHUNK * size.scale + 1) * size.out_width);
        for (int t = 0; t <= size.stages; t++)
            stages.push_back({Worker::Band(size, t, 0, t == size.stages ? seen : int(size.height)),
                              Rings(arena, size, t < size.stages, t > 0, t == size.stages)});
        lanes.resize(size.stages + 3);
        for (int i = 0; i < size.threads; i++) workers.emplace_back(arena, size, weights, maps);
    }

    // 0, or 1 if threads cannot be had, 2 if reading or writing failed.
    int32_t run() {
        maps.clear_frame(size);
        std::vector<std::thread> threads;
        try {
            for (int i = 1; i < size.threads; i++) threads.emplace_back([this, i] { work(i); });
        } catch (const std::system_error&) {
            fail(1);
        }
        work(0);
        for (auto& thread : threads) thread.join();
        return failure;
    }

private:
    struct StageState {
        Worker::Band band;
        Rings rings;
        int row = 0;     // the next to go through `Worker::step`
        int blocks = 0;  // rows of attention's blocks that are done
    };

    struct Lane {
        int done = 0;  // chunks
        bool running = false;
    };

    // Lanes: -1 reads, 0 .. stages compute, stages + 1 writes.
    static constexpr int READ = -1, NONE = -2;
    int last_stage() const { return size.stages; }
    int writing() const { return size.stages + 1; }
    Lane& lane(int t) { return lanes[t + 1]; }
    int done(int t) const { return lanes[t + 1].done; }

    void work(int index) {
        std::unique_lock<std::mutex> lock(mutex);
        const int end = index ? last_stage() : writing();
        while (!failure && done(end) <= last_chunk) {
            const int t = next_lane(index);
            if (t == NONE) {
                changed.wait(lock);
                continue;
            }
            const int chunk = done(t);
            lane(t).running = true;
            lock.unlock();
            const bool good = run_chunk(t, chunk, workers[index]);
            lock.lock();
            lane(t).running = false;
            lane(t).done++;
            if (!good) failure = 2;
            changed.notify_all();
        }
    }

    void fail(int32_t reason) {
        const std::lock_guard<std::mutex> lock(mutex);
        failure = reason;
        changed.notify_all();
    }

    int next_lane(int index) const {
        if (index == 0)
            for (int t : {writing(), READ})
                if (ready(t)) return t;
        for (int t = last_stage(); t >= 0; t--)
            if (ready(t)) return t;
        return NONE;
    }

    bool ready(int t) const {
        const int chunk = done(t);
        if (lanes[t + 1].running || chunk > last_chunk) return false;
        if (t == READ) return done(0) >= chunk - 1;
        if (t == writing()) return done(last_stage()) > chunk;
        const int before = t == 0 ? chunk : std::min(chunk + 1, last_chunk);
        if (done(t - 1) <= before) return false;
        if (t == last_stage()) return done(writing()) >= chunk - 1;
        return done(t + 1) >= chunk - distance.next && done(last_stage()) >= chunk - (size.stages - t + distance.last);
    }

    bool run_chunk(int t, int chunk, Worker& worker) {
        if (t == READ) return read(chunk);
        if (t == writing()) return write(chunk);
        StageState& stage = stages[t];
        const int wanted = chunk == last_chunk ? int(size.height) : CHUNK * chunk + (t ? 13 : 11);
        for (const int end = std::min(wanted, t ? stage.band.end : int(size.height)); stage.row < end; stage.row++) {
            if (t == 0) worker.head(image(), stage.row);
            worker.step(t, stage.row, stage.band, stage.rings, [&](int row) {
                if (t == last_stage()) tail(row, chunk, worker);
            });
            if (t < last_stage()) attend(t, worker);
        }
        return true;
    }

    // What can be attended now that `Worker::step` has seen the stage's row.
    void attend(int t, const Worker& worker) {
        StageState& stage = stages[t];
        if (!size.has_esam) return;
        const int of_v = stage.row == size.height - 1 ? int(size.height) : t ? stage.row - 2 : stage.row;
        const int across = size.width / CHUNK, down = last_chunk;
        for (; stage.blocks < down; stage.blocks++) {
            if (of_v / 2 < std::min(BLOCK * (stage.blocks + 1) + 1, size.height / 2)) return;
            for (int i = 0; i < across; i++) worker.attend(t, stage.blocks * across + i);
        }
    }

    // A row of the last a, and the output rows that it completes.
    void tail(int row, int chunk, const Worker& worker) {
        const Map& lines = stages.back().rings.tap_lines;
        worker.shuffle(row, 0, row >= true_height ? 1 : size.scale, lines);
        const int end = row == seen - 1 ? int(size.out_height) : (row + 1) * size.scale - 1, count = out_rows(chunk);
        const Output out{outgoing[chunk % 2], long(count) * size.out_width, size.out_width, first_out_row(chunk)};
        for (; next_out_row < end; next_out_row++) worker.write(image(), out, next_out_row, lines);
    }

    // The chunk's first row of the output.
    int first_out_row(int chunk) const {
        const int rows = CHUNK * (chunk - 1) + 11;  // of the last a that are done
        if (chunk == 0) return 0;
        return chunk > last_chunk || rows >= seen ? int(size.out_height) : rows * size.scale - 1;
    }

    int out_rows(int chunk) const { return first_out_row(chunk + 1) - first_out_row(chunk); }

    // The rows of x that the chunk of lane 0 needs, padded as the whole image is.
    bool read(int chunk) {
        const int first = chunk ? CHUNK * chunk - 4 : 0;
        const int end = chunk == last_chunk ? int(size.height) : CHUNK * chunk + 12;
        const int count = std::max(std::min(end, true_height) - first, 0);
        if (count && read_rows(first, count, incoming)) return false;
        for (int row = first; row < end; row++) {
            if (row >= true_height) {
                std::copy_n(x.row(reflect_often(row, true_height)), x.row_size, x.row(row));
                continue;
            }
            for (int colour = 0; colour < 3; colour++) {
                const float* from = incoming + (long(colour) * count + row - first) * true_width;
                float* to = x.row(row) + long(colour) * size.width;
                std::copy_n(from, true_width, to);
                for (int i = true_width; i < size.width; i++) to[i] = from[reflect_often(i, true_width)];
            }
        }
        return true;
    }

    bool write(int chunk) const {
        const int count = out_rows(chunk);
        return !count || !write_rows(first_out_row(chunk), count, outgoing[chunk % 2]);
    }

    Image image() const { return {x.data, size.width, x.row_size, x.held}; }

    const Sizes& size;
    const Distances distance;
    const int last_chunk, true_height, true_width, seen;  // `seen`: rows of the last a that the tail looks at
    const ReadRows read_rows;
    const WriteRows write_rows;
    Maps maps;
    Map x;
    float *incoming, *outgoing[2];
    std::vector<StageState> stages;
    std::vector<Worker> workers;
    int next_out_row = 0;
    std::mutex mutex;  // of what follows
    std::condition_variable changed;
    std::vector<Lane> lanes;
    int32_t failure = 0;
};

// See `ssiu_multiply_adds`.
template <class Factors>
int64_t multiply_adds(int64_t rounds, float* out) {
    constexpr int AT_ONCE = 12;  // enough to keep two units of four steps each busy, and few enough for 16 registers
    const Vector factor = all(out[0]), more = all(out[1]);
    Vector sums[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++) sums[i] = all(float(i));
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < AT_ONCE; i++) sums[i] = Factors::add_product(more, sums[i], factor);
    for (int i = 1; i < AT_ONCE; i++) sums[0] += sums[i];
    out[0] = total(sums[0])[0];
    return rounds * AT_ONCE * LANES;
}

}  // namespace

extern "C" {

// Whether `Sizes.bf16` may be set.
int32_t ssiu_has_bf16() { return HAS_PAIRS; }

// Floats that the packed weights have.
size_t ssiu_weights(const Sizes* sizes) {
    Arena arena{nullptr};
    Weights(arena, *sizes);
    return arena.used;
}

// Floats of memory that `ssiu_run` works in.
size_t ssiu_memory(const Sizes* sizes) {
    Arena none{nullptr}, arena{nullptr};
    const Weights weights(none, *sizes);
    Plan(arena, *sizes, weights);
    return arena.used;
}

// images (batch, 3, height, width) -> out (batch, 3, out_height, out_width). Returns 1 if threads cannot be had.
int32_t ssiu_run(const Sizes* sizes, float* packed, float* memory, int32_t batch, const float* images, float* out) {
    Arena of_weights{packed}, arena{memory};
    const Weights weights(of_weights, *sizes);
    Plan plan(arena, *sizes, weights);
    plan.maps.clear_frame(*sizes);
    Meeting meeting(sizes->threads);
    std::atomic<int> begin{0};  // 1 when all threads are there, -1 if one cannot be had
    const auto work = [&](int index) {
        while (!begin) std::this_thread::yield();
        if (begin < 0) return;
        const long plane = long(sizes->height) * sizes->width, out_plane = long(sizes->out_height) * sizes->out_width;
        for (long i = 0; i < batch; i++)
            plan.workers[index].run({images + i * 3 * plane, plane, sizes->width, sizes->height},
                                    {out + i * 3 * out_plane, out_plane, sizes->out_width, 0}, meeting);
    };
    std::vector<std::thread> threads;
    try {
        for (int i = 1; i < sizes->threads; i++) threads.emplace_back(work, i);
        begin = 1;
    } catch (const std::system_error&) {
        begin = -1;
    }
    work(0);
    for (auto& thread : threads) thread.join();
    return begin < 0;
}

// Rows of the input that are in flight in `ssiu_stream`.
int32_t ssiu_stream_rows(const Sizes* sizes) { return rows_in_flight(*sizes); }

// Floats of memory that it works in: the same for any height.
size_t ssiu_stream_memory(const Sizes* sizes) {
    Arena none{nullptr}, arena{nullptr};
    const Weights weights(none, *sizes);
    Stream(arena, *sizes, weights, nullptr, nullptr);
    return arena.used;
}

// One image, whose rows (3, n, out_width / scale) `read` brings and (3, n, out_width) `write` takes, both in order and
// called from this thread alone. Returns 0, 1 if threads cannot be had, or 2 if a call did not return 0.
int32_t ssiu_stream(const Sizes* sizes, float* packed, float* memory, ReadRows read, WriteRows write) {
    Arena of_weights{packed}, arena{memory};
    const Weights weights(of_weights, *sizes);
    return Stream(arena, *sizes, weights, read, write).run();
}

// What a core can do: multiply-adds of numbers that never leave the registers; in bf16 needs HAS_PAIRS. Returns how many
// were done; `out` takes a number that depends on all of them, so that none can be left out.
int64_t ssiu_multiply_adds(int64_t rounds, float* out, int32_t bf16) {
    return bf16 ? 2 * multiply_adds<Pairs>(rounds, out) : multiply_adds<Singles>(rounds, out);
}

// GELU and e^x of n numbers in place, n a multiple of 16: for tests.
void ssiu_gelu(float* x, int32_t n) {
    gelu<Singles>(x, n);
}

void ssiu_exponential(float* x, int32_t n) {
    for (int i = 0; i < n; i += LANES) store(x + i, exponential(load(x + i)));
}
}
