//! The maximum of each chunk of a row: one vectorised pass over the row, after which its maximum, the index of the
//! maximum and the best few values are found in a few chunks.
//!
//! NaN is ignored, and the maximum of no numbers is -inf.

use multiversion::multiversion;

/// Number of values per chunk.
pub(super) const CHUNK: usize = 64;
/// Number of maxima that a chunk is reduced to side by side, for vector instructions.
const LANES: usize = 16;

/// The maxima of the row that was scanned last.
#[derive(Debug, Default)]
pub(super) struct ChunkMaxima {
    /// One maximum per [`CHUNK`] values; the last chunk may be shorter.
    chunks: Vec<f32>,
}

impl ChunkMaxima {
    /// Replaces the maxima by those of `values`.
    pub(super) fn scan(&mut self, values: &[f32]) {
        self.chunks.resize(values.len().div_ceil(CHUNK), 0.0);
        scan(values, &mut self.chunks);
    }

    /// One maximum per [`CHUNK`] values.
    pub(super) fn chunks(&self) -> &[f32] {
        &self.chunks
    }

    /// The maximum of the whole row.
    pub(super) fn max(&self) -> f32 {
        self.chunks.iter().copied().fold(f32::NEG_INFINITY, greater)
    }

    /// Index of the maximum of `values`, the row that was scanned last: the first of equal values, or 0 if all are NaN or
    /// -inf.
    pub(super) fn argmax(&self, values: &[f32]) -> usize {
        let greatest = self.max();
        let first = self.chunks.iter().position(|&max| max == greatest).unwrap_or(0) * CHUNK;
        values[first..].iter().position(|&value| value == greatest).map_or(0, |i| first + i)
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn scan(values: &[f32], maxima: &mut [f32]) {
    for (chunk, maximum) in values.chunks(CHUNK).zip(maxima) {
        let (whole, rest) = chunk.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for values in whole {
            for (lane, &value) in lanes.iter_mut().zip(values) {
                *lane = greater(*lane, value);
            }
        }
        *maximum = rest.iter().copied().fold(greatest_lane(lanes), greater);
    }
}

/// The maximum of all lanes, by halves of [`LANES`], so that the compiler keeps vector instructions.
fn greatest_lane(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = greater(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

#[inline]
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn argmax(values: &[f32]) -> usize {
        let mut maxima = ChunkMaxima::default();
        maxima.scan(values);
        maxima.argmax(values)
    }

    proptest! {
        #[test]
        fn maxima_and_argmax_equal_those_of_a_plain_loop(
            values in prop::collection::vec(prop_oneof![(-3_i8..3).prop_map(f32::from), Just(f32::NAN)], 0..300),
        ) {
            let greatest = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut maxima = ChunkMaxima::default();
            maxima.scan(&values);
            prop_assert_eq!(maxima.chunks(), values.chunks(64).map(greatest).collect::<Vec<_>>());
            prop_assert_eq!(maxima.max(), greatest(&values));
            let first = values.iter().position(|value| *value == greatest(&values)).unwrap_or(0);
            prop_assert_eq!(maxima.argmax(&values), first);
        }
    }

    #[test]
    fn the_first_of_equal_maxima_is_taken_in_every_lane() {
        for first in 0..150 {
            let mut row = vec![-1.0; 150];
            row[first] = 2.0;
            row[149] = 2.0;
            assert_eq!(argmax(&row), first);
        }
    }

    #[test]
    fn a_row_without_a_number_has_its_maximum_at_0() {
        assert_eq!(argmax(&[f32::NEG_INFINITY; 20]), 0);
        assert_eq!(argmax(&[f32::NAN; 20]), 0);
        assert_eq!(argmax(&[f32::NAN, 1.0, f32::NAN]), 1);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn a_shorter_row_is_not_mixed_with_the_one_before() {
        let mut maxima = ChunkMaxima::default();
        maxima.scan(&[9.0; 200]);
        maxima.scan(&[1.0; 100]);
        assert_eq!(maxima.max(), 1.0);
        assert_eq!(maxima.chunks(), [1.0, 1.0]);
    }
}
