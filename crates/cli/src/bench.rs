//! Measurements of this program on this machine, by named model shapes with random weights.
//!
//! Takes a shape and a plan, gives one record: throughput, seconds, peak memory, arithmetic rate against the
//! machine's own peaks measured in the same process, and a hash of what was computed, so that two runs can be told
//! to be the same. Peak memory is read before the peaks are measured: it is that of the work alone.

pub mod base;
pub mod decode;
pub mod gemm;
pub mod lengths;
pub mod machine;
pub mod meter;
pub mod record;
pub mod shape;
pub mod train;
pub mod work;

/// The middle value; the mean of the two middle ones of an even number. 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Random token ids of a vocabulary; `draw` tells texts of one seed apart.
pub fn random_ids(seed: u64, draw: u32, count: usize, vocab: usize) -> Vec<u32> {
    let stream = loar_kernels::rng::Stream::new(seed, 0x62_656e, draw);
    (0..count as u64).map(|i| stream.below(i, vocab as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_middle_of_some_numbers() {
        assert_eq!(super::median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(super::median(&[]), 0.0);
    }
}
