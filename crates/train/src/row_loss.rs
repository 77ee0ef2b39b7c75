//! The loss of rows one by one: the same forward pass and mask as training, without gradients.
//!
//! Rows are packed by falling length into micro-batches, so that padding is none and the products
//! are large. What a row's loss is depends on the row alone: packed documents do not see one another,
//! and sums have an order of their own length.

use loar_model::Model;

use crate::pack::{Row, pack};

/// Mean loss in nats over each row's labelled tokens; `None` for a row without one, or whose loss
/// is not finite. `capacity`: tokens of a micro-batch; a longer row gets one of its own.
pub fn row_losses(model: &Model, rows: &[Row], capacity: usize) -> Vec<Option<f64>> {
    let labelled: Vec<usize> = (0..rows.len()).filter(|at| rows[*at].labels() > 0).collect();
    let mut out = vec![None; rows.len()];
    for micro in pack(rows, &labelled, capacity) {
        let losses = model.loss(&micro.batch).per_token;
        let mut sums = vec![(0.0_f64, 0_usize); micro.rows.len()];
        for (document, loss) in micro.batch.target_document.iter().zip(losses) {
            sums[*document].0 += f64::from(loss);
            sums[*document].1 += 1;
        }
        for (row, (sum, n)) in micro.rows.iter().zip(sums) {
            let mean = sum / n as f64;
            out[*row] = mean.is_finite().then_some(mean);
        }
    }
    out
}
