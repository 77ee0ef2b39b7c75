//! Which documents a training step sees: the length mix that the PEFT peer trains on, or packs of equal documents.

/// Rows of a batch of [`MIX`].
pub const MIX_ROWS: usize = 4;

/// Lengths like those of instruction data: log-normal (mu 5.2, sigma 0.7), cut to 32..=512. Drawn once by
/// `torch.empty(1).log_normal_(5.2, 0.7, generator=torch.Generator().manual_seed(1))`, PyTorch 2.15, truncated to
/// integers. Four rows a batch, the first batch warms up.
pub const MIX: [usize; 44] = [
    287, 218, 189, 280, 132, 161, 62, 236, 88, 122, 97, 174, 158, 92, 243, 218, 134, 126, 60, 166, 512, 50, 512, 74,
    227, 129, 475, 512, 241, 90, 96, 264, 195, 37, 277, 164, 324, 152, 103, 213, 221, 293, 116, 335,
];

/// The documents of step `step`: `rows` of `lengths` at a time, from the front again when they are used up.
pub fn batch(lengths: &[usize], rows: usize, step: usize) -> Vec<usize> {
    (0..rows).map(|row| lengths[(step * rows + row) % lengths.len()]).collect()
}

/// `tokens` cut into documents of `document` tokens; the last may be shorter.
pub fn pack_of(tokens: usize, document: usize) -> Vec<usize> {
    let document = document.max(1);
    let mut lengths = vec![document; tokens / document];
    if !tokens.is_multiple_of(document) {
        lengths.push(tokens % document);
    }
    lengths
}

/// Tokens at the front of a document that carry no loss: its prompt. At least its first, which nothing predicts.
pub fn masked(length: usize, share: f64) -> usize {
    ((length as f64 * share).round() as usize).clamp(1, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_each_other_and_come_again() {
        assert_eq!(batch(&MIX, MIX_ROWS, 0), [287, 218, 189, 280]);
        assert_eq!(batch(&MIX, MIX_ROWS, 5), [512, 50, 512, 74]);
        assert_eq!(batch(&MIX, MIX_ROWS, 11), batch(&MIX, MIX_ROWS, 0));
        assert!(MIX.iter().all(|l| (32..=512).contains(l)));
    }

    #[test]
    fn packs_and_prompts() {
        assert_eq!(pack_of(1100, 512), [512, 512, 76]);
        assert_eq!(masked(100, 0.6), 60);
        assert_eq!(masked(100, 0.0), 1);
        assert_eq!(masked(3, 1.0), 3);
    }
}
