//! Rows of one optimizer step into micro-batches of a bounded number of tokens.
//!
//! First-fit decreasing: rows by falling length, each into the first micro-batch with room (within
//! 11/9 of the best packing plus 6/9 of a batch, Dósa 2007). A row is never split; one longer than
//! the bound gets a micro-batch of its own. The result depends on the rows alone.

use loar_model::PackedBatch;

/// One training row: token ids and which of them carry loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where it came from: `file:line`, and `#turn` when an example made several rows.
    pub id: String,
    /// Token ids.
    pub ids: Vec<u32>,
    /// `train[i]`: token i is a target. The first token never is.
    pub train: Vec<bool>,
}

impl Row {
    /// Tokens with loss: those that have a token before them to be predicted from.
    pub fn labels(&self) -> usize {
        self.train.iter().skip(1).filter(|t| **t).count()
    }
}

/// A micro-batch and the rows it was packed from.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Indices of its rows, in the order of the documents of `batch`.
    pub rows: Vec<usize>,
    /// What the model takes.
    pub batch: PackedBatch,
}

/// Distributes items of these lengths over bins of `capacity`; gives positions in `lengths`,
/// rising within each bin.
pub fn first_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i])); // stable: equal lengths keep their order
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for item in order {
        let length = lengths[item];
        match bins.iter_mut().find(|(used, _)| used + length <= capacity) {
            Some((used, items)) => {
                *used += length;
                items.push(item);
            }
            None => bins.push((length, vec![item])),
        }
    }
    bins.into_iter()
        .map(|(_, mut items)| {
            items.sort_unstable();
            items
        })
        .collect()
}

/// Packs the rows `chosen` of `rows` into micro-batches of at most `capacity` tokens.
pub fn pack(rows: &[Row], chosen: &[usize], capacity: usize) -> Vec<MicroBatch> {
    let lengths: Vec<usize> = chosen.iter().map(|r| rows[*r].ids.len()).collect();
    first_fit_decreasing(&lengths, capacity)
        .into_iter()
        .map(|bin| {
            let members: Vec<usize> = bin.into_iter().map(|i| chosen[i]).collect();
            let docs: Vec<(&[u32], &[bool])> =
                members.iter().map(|r| (rows[*r].ids.as_slice(), rows[*r].train.as_slice())).collect();
            MicroBatch { batch: PackedBatch::pack(&docs), rows: members }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_packing() {
        assert_eq!(first_fit_decreasing(&[3, 7, 5, 2, 3], 10), [vec![0, 1], vec![2, 3, 4]]);
        assert_eq!(first_fit_decreasing(&[12, 4, 4], 10), [vec![0], vec![1, 2]]);
        assert!(first_fit_decreasing(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_row_once_and_no_batch_over_the_bound(lengths in prop::collection::vec(1usize..40, 0..60), capacity in 1usize..64) {
            let bins = first_fit_decreasing(&lengths, capacity);
            let mut seen: Vec<usize> = bins.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for bin in &bins {
                let used: usize = bin.iter().map(|i| lengths[*i]).sum();
                prop_assert!(used <= capacity || bin.len() == 1);
            }
            // no two bins could be one: first fit would have joined them
            for (i, a) in bins.iter().enumerate() {
                for b in &bins[i + 1..] {
                    let used: usize = a.iter().chain(b).map(|i| lengths[*i]).sum();
                    prop_assert!(used > capacity);
                }
            }
        }

        #[test]
        fn packed_labels_are_the_rows_labels(rows in prop::collection::vec((2usize..12, any::<u16>()), 1..10)) {
            let rows: Vec<Row> = rows.iter().enumerate().map(|(i, (n, bits))| Row {
                id: i.to_string(),
                ids: vec![1; *n],
                train: (0..*n).map(|b| bits >> b & 1 == 1).collect(),
            }).collect();
            let chosen: Vec<usize> = (0..rows.len()).collect();
            let micro = pack(&rows, &chosen, 16);
            let labels: usize = micro.iter().map(|m| m.batch.targets.len()).sum();
            prop_assert_eq!(labels, rows.iter().map(Row::labels).sum::<usize>());
        }
    }
}
