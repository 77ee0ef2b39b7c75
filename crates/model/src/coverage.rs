//! What an adapter reaches: one row a component of the decoder, before the first step, and whether gradient arrived
//! after it.
use crate::model::Model;
use loar_formats::names::{Component, expected_tensors, is_mtp};
use loar_tape::{Grads, ParamId};
use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, serde::Serialize)]
pub struct CoverageRow {
    pub component: String,
    /// Parameters of the base in this component.
    pub parameters: usize,
    /// Of these, parameters of matrices that an adapter changes or that train whole.
    pub adapted: usize,
    pub trainable: usize,
    pub modules: usize,
    pub modules_adapted: usize,
    /// Trainable tensors, and those whose gradient was not zero; `None` before the first step.
    pub tensors: usize,
    pub tensors_with_gradient: Option<usize>,
    #[serde(skip)]
    ids: Vec<ParamId>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Coverage {
    pub rows: Vec<CoverageRow>,
}

fn module_of(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(m, _)| m)
}

impl Model {
    pub fn coverage(&self) -> Coverage {
        let mut adapted: BTreeMap<&str, Vec<ParamId>> = BTreeMap::new();
        for (id, p) in self.params.iter() {
            adapted.entry(module_of(&p.name)).or_default().push(id);
        }
        // A pair of gate and up may share its A under the name of neither (PEFT's fused experts).
        let shared: BTreeMap<String, Vec<ParamId>> = self
            .linears()
            .iter()
            .filter_map(|l| l.lora.as_ref().map(|lora| (l.name.clone(), vec![lora.a, lora.b])))
            .collect();
        let mut rows: Vec<(Component, CoverageRow)> = Vec::new();
        for (name, shape, component) in
            expected_tensors(&self.config).into_iter().filter(|(n, ..)| !is_mtp(&self.config, n))
        {
            let index = match rows.iter().position(|(c, _)| *c == component) {
                Some(i) => i,
                None => {
                    rows.push((
                        component,
                        CoverageRow {
                            component: component.to_string(),
                            parameters: 0,
                            adapted: 0,
                            trainable: 0,
                            modules: 0,
                            modules_adapted: 0,
                            tensors: 0,
                            tensors_with_gradient: None,
                            ids: Vec::new(),
                        },
                    ));
                    rows.len() - 1
                }
            };
            let row = &mut rows[index].1;
            let count = shape.iter().product::<usize>();
            let module = module_of(&name);
            row.parameters += count;
            if name.ends_with(".bias") {
                if let Some(id) = self.params.find(&name) {
                    row.adapted += count;
                    row.ids.push(id);
                }
                continue;
            }
            row.modules += 1;
            let mut ids = adapted.get(module).cloned().unwrap_or_default();
            ids.extend(shared.get(module).into_iter().flatten());
            if !ids.is_empty() {
                row.adapted += count;
                row.modules_adapted += 1;
                row.ids.extend(ids.into_iter().filter(|id| !self.params.get(*id).name.ends_with(".bias")));
            }
        }
        // Shared A matrices appear under both of their modules: count each once.
        for (_, row) in &mut rows {
            row.ids.sort();
            row.ids.dedup();
            row.tensors = row.ids.len();
            row.trainable = row.ids.iter().map(|id| self.params.get(*id).count()).sum();
        }
        Coverage { rows: rows.into_iter().map(|(_, r)| r).collect() }
    }
}

impl Coverage {
    /// Records which tensors received a gradient different from zero.
    pub fn mark_gradients(&mut self, grads: &Grads) {
        for row in &mut self.rows {
            let n =
                row.ids.iter().filter(|id| grads.get(**id).is_some_and(|g| g.data.iter().any(|x| *x != 0.0))).count();
            row.tensors_with_gradient = Some(n);
        }
    }

    pub fn trainable(&self) -> usize {
        self.rows.iter().map(|r| r.trainable).sum()
    }

    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|r| r.parameters).sum()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>16}{:>10}{:>14}{:>16}{:>12}",
            "component", "parameters", "adapted", "trainable", "modules", "gradient"
        )?;
        for r in &self.rows {
            let share = if r.parameters == 0 { 0.0 } else { 100.0 * r.adapted as f64 / r.parameters as f64 };
            let gradient = match r.tensors_with_gradient {
                _ if r.tensors == 0 => "frozen".to_string(),
                None => "-".to_string(),
                Some(n) => format!("{n}/{}", r.tensors),
            };
            let modules = format!("{}/{}", r.modules_adapted, r.modules);
            writeln!(
                f,
                "{:<16}{:>16}{share:>9.1}%{:>14}{modules:>16}{gradient:>12}",
                r.component, r.parameters, r.trainable
            )?;
        }
        let (t, p) = (self.trainable(), self.parameters());
        write!(f, "{:<16}{p:>16}{:>10}{t:>14}  ({:.3} % of the base)", "all", "", 100.0 * t as f64 / p.max(1) as f64)
    }
}

#[cfg(test)]
mod tests;
