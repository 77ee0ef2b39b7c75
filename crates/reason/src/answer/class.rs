//! Groups of equal answers.

use super::{Answer, EqualOptions, equal};

/// The class of each answer, numbered by first appearance. Answers that are equal in either direction
/// are in one class, and so are answers linked through others (union-find). All paths without an
/// answer are one class of their own. The same answers in the same order give the same numbers.
pub fn classes(answers: &[Option<Answer>], options: &EqualOptions) -> Vec<usize> {
    let mut root: Vec<usize> = (0..answers.len()).collect();
    // one entry for every different written answer: 40 votes are mostly copies of a few
    let mut different: Vec<usize> = Vec::new();
    for i in 0..answers.len() {
        match different.iter().find(|&&j| answers[i] == answers[j]) {
            Some(&j) => root[i] = j,
            None => different.push(i),
        }
    }
    for (at, &i) in different.iter().enumerate() {
        for &j in &different[..at] {
            let (a, b) = (find(&mut root, i), find(&mut root, j));
            if a == b {
                continue;
            }
            if let (Some(x), Some(y)) = (&answers[i], &answers[j])
                && (equal(x, y, options) || equal(y, x, options))
            {
                root[a.max(b)] = a.min(b);
            }
        }
    }
    let mut number: Vec<Option<usize>> = vec![None; answers.len()];
    let mut next = 0;
    (0..answers.len())
        .map(|i| {
            let r = find(&mut root, i);
            *number[r].get_or_insert_with(|| {
                next += 1;
                next - 1
            })
        })
        .collect()
}

fn find(root: &mut [usize], mut i: usize) -> usize {
    while root[i] != i {
        root[i] = root[root[i]];
        i = root[i];
    }
    i
}

#[cfg(test)]
mod tests {
    use super::super::{ExtractOptions, extract};
    use super::*;

    #[test]
    fn equal_answers_share_a_class_and_no_answer_is_one() {
        let texts = ["The answer is 0.5", "", "#### 1/2", "The answer is 3", "", "\\boxed{3.0}"];
        let answers: Vec<_> = texts.iter().map(|t| extract(t, &ExtractOptions::default())).collect();
        assert_eq!(classes(&answers, &EqualOptions::default()), [0, 1, 0, 2, 1, 2]);
    }
}
