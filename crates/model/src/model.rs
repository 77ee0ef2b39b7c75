//! The decoder: embedding, layers, final norm, head; losses with and without gradients, logits, cached steps.
use crate::cache::CachedKeys;
use crate::decode;
use crate::layer::{Keys, Layer, Pass as LayerPass};
use crate::peft::Attached;
use crate::rope::Rope;
use crate::{KvCache, ModelError, PackedBatch};
use loar_formats::config::ModelConfig;
use loar_tape::op::Store;
use loar_tape::{Context, DropoutKey, Grads, Linear, Lora, ParamStore, Precision, Tape, Tensor, Var, Weight};
use std::sync::{Arc, Mutex};

pub struct Model {
    pub config: ModelConfig,
    /// Trainable parameters only; frozen weights live in the layers.
    pub params: ParamStore,
    pub context: Context,
    pub(crate) embed_tokens: Weight,
    pub(crate) embed_lora: Option<Lora>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Weight,
    /// Shares the embedding's weight when `tie_word_embeddings`.
    pub(crate) lm_head: Linear,
    pub(crate) rope: Rope,
    /// How the adapter was made, for saving it.
    pub(crate) attached: Option<Attached>,
}

/// How one forward and backward pass runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    pub dropout: Option<DropoutKey>,
    /// The first so many layers are computed again in the backward pass instead of keeping their inner values. The
    /// first ones, because by their turn the memory of the later ones is free.
    pub checkpoint: usize,
}

#[derive(Clone, Debug)]
pub struct BatchLoss {
    /// Sum over labelled tokens.
    pub sum: f64,
    /// Negative log-likelihood of each target, in the order of `PackedBatch::targets`.
    pub per_token: Vec<f32>,
    /// Tokens routed to each expert, by layer; empty for dense layers.
    pub expert_load: Vec<Vec<usize>>,
}

impl Model {
    /// Loss of the batch without gradients.
    pub fn loss(&self, batch: &PackedBatch) -> BatchLoss {
        let mut tape = Tape::eval(&self.context, &self.params);
        let (h, load) = self.hidden(&mut tape, batch, 0);
        let loss = tape.head_loss(&h, &self.lm_head, &batch.targets);
        BatchLoss { sum: loss.sum(), per_token: loss.per_token, expert_load: load }
    }

    /// Loss of the batch, and its gradients times `token_weight` added to `grads`. With `token_weight` = 1 / labelled
    /// tokens of the whole optimiser step, any split into batches gives the gradient of the step's mean loss.
    pub fn loss_and_grads(&self, batch: &PackedBatch, grads: &mut Grads, token_weight: f32, pass: &Pass) -> BatchLoss {
        let mut tape = Tape::new(&self.context, &self.params, pass.dropout);
        let (h, load) = self.hidden(&mut tape, batch, pass.checkpoint);
        let loss = tape.head_loss(&h, &self.lm_head, &batch.targets);
        drop(h);
        tape.backward(grads, &loss.total, Tensor::new(1, 1, vec![token_weight]));
        BatchLoss { sum: loss.sum(), per_token: loss.per_token, expert_load: load }
    }

    /// Logits of every token, `[tokens, vocab]`.
    pub fn logits(&self, batch: &PackedBatch) -> Tensor {
        let mut tape = Tape::eval(&self.context, &self.params);
        let (h, _) = self.hidden(&mut tape, batch, 0);
        let logits = tape.linears(&h, vec![(&self.lm_head, Store::F32)]).remove(0);
        Arc::unwrap_or_clone(logits.value).into_f32(&self.context.pool)
    }

    /// Appends each sequence's tokens to its cache and gives the logits after its last one, `[sequences, vocab]`.
    /// A sequence's row depends on its own tokens, and how they were cut into steps, alone. Panics on an empty token
    /// list: a bug of the caller.
    ///
    /// With bf16 products, steps of few tokens stream the weights and longer ones multiply in blocks; both may be in
    /// one call.
    pub fn step(&self, sequences: &mut [(&[u32], &mut KvCache)]) -> Tensor {
        assert!(sequences.iter().all(|(t, _)| !t.is_empty()), "a step needs at least one token a sequence");
        if sequences.is_empty() {
            return Tensor::zeros(0, self.config.vocab_size);
        }
        if self.context.precision == Precision::F32 {
            let hidden = self.pieces(sequences);
            let tape = &mut Tape::eval(&self.context, &self.params);
            let logits = tape.linears(&Var::constant(hidden), vec![(&self.lm_head, Store::F32)]).remove(0);
            return Arc::unwrap_or_clone(logits.value).into_f32(&self.context.pool);
        }
        let prepared = sequences[0].1.paged().prepared.clone();
        let mut hidden = Tensor::zeros(sequences.len(), self.config.hidden_size);
        for few in [true, false] {
            let (places, mut chosen): (Vec<usize>, Vec<(&[u32], &mut KvCache)>) = sequences
                .iter_mut()
                .enumerate()
                .filter(|(_, (tokens, _))| (tokens.len() <= decode::FEW) == few)
                .map(|(i, (tokens, cache))| (i, (*tokens, &mut **cache)))
                .unzip();
            if chosen.is_empty() {
                continue;
            }
            let rows = if few { decode::hidden(self, &mut chosen) } else { self.pieces(&mut chosen) };
            for (i, place) in places.into_iter().enumerate() {
                hidden.row_mut(place).copy_from_slice(rows.row(i));
            }
        }
        decode::logits(self, prepared.get_or_init(|| decode::Prepared::new(self)), &hidden)
    }

    /// Appends each sequence's tokens through the tape; what the final norm gives for its last one, `[sequences, d]`.
    fn pieces(&self, sequences: &mut [(&[u32], &mut KvCache)]) -> Tensor {
        let (mut ids, mut positions, mut last, mut taken) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (tokens, cache) in sequences.iter_mut() {
            positions.extend((0..tokens.len()).map(|i| (cache.len + i) as u32));
            taken.push((ids.len(), tokens.len(), Mutex::new(std::mem::take(&mut **cache))));
            ids.extend_from_slice(tokens);
            last.push(ids.len() - 1);
        }
        let keys = CachedKeys { sequences: taken };
        let ends = self.last_hidden(&keys, ids, &positions, &last);
        for ((_, cache), (_, rows, taken)) in sequences.iter_mut().zip(keys.sequences) {
            **cache = taken.into_inner().expect("no step panicked");
            cache.len += rows;
        }
        ends
    }

    fn last_hidden<'a>(&'a self, keys: &'a CachedKeys, ids: Vec<u32>, positions: &[u32], last: &[usize]) -> Tensor {
        let mut tape = Tape::eval(&self.context, &self.params);
        let (h, _) = self.run_layers(&mut tape, &Arc::new(ids), positions, Keys::Cached(keys), 0);
        let wide = h.value.widened(&self.context.pool);
        let mut ends = Tensor::zeros(last.len(), h.cols());
        for (i, r) in last.iter().enumerate() {
            ends.row_mut(i).copy_from_slice(wide.row(*r));
        }
        ends
    }

    /// Output of the final norm, and the expert load of each layer.
    fn hidden<'a>(&'a self, tape: &mut Tape<'a>, batch: &PackedBatch, checkpoint: usize) -> (Var, Vec<Vec<usize>>) {
        self.run_layers(tape, &batch.ids, &batch.positions, Keys::Packed(batch.segments.clone()), checkpoint)
    }

    fn run_layers<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        ids: &Arc<Vec<u32>>,
        positions: &[u32],
        keys: Keys<'a>,
        checkpoint: usize,
    ) -> (Var, Vec<Vec<usize>>) {
        let expert_load = Arc::new(Mutex::new(vec![Vec::new(); self.layers.len()]));
        let pass = LayerPass {
            config: &self.config,
            rope: Arc::new(self.rope.table(positions)),
            keys,
            expert_load: expert_load.clone(),
        };
        let mut x = tape.embed(ids, &self.embed_tokens, self.embed_lora.as_ref());
        for layer in &self.layers {
            x = if layer.index < checkpoint {
                let pass = pass.clone();
                tape.checkpoint(&x, layer.is_trainable(), move |tape, x| layer.forward(tape, &x, &pass))
            } else {
                layer.forward(tape, &x, &pass)
            };
        }
        let h = tape.rms_norm(&x, &self.norm, self.config.rms_norm_eps as f32);
        let load = expert_load.lock().expect("no pass panicked").clone();
        (h, load)
    }

    /// Refuses ids the embedding does not have; call before feeding tokens from outside.
    pub fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().position(|id| *id as usize >= vocab_size) {
            None => Ok(()),
            Some(position) => Err(ModelError::Token { id: ids[position], position, vocab_size }),
        }
    }

    /// Every linear layer of the body and the head, in checkpoint order.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = Vec::new();
        for layer in &self.layers {
            layer.each_linear(&mut |l| all.push(l));
        }
        all.push(&self.lm_head);
        all
    }

    pub(crate) fn each_linear_mut(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        for layer in &mut self.layers {
            layer.each_linear_mut(f);
        }
        f(&mut self.lm_head);
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// All parameters of the base, the shared embedding counted once, adapters not counted.
    pub fn count(&self) -> usize {
        loar_formats::names::expected_tensors(&self.config)
            .iter()
            .filter(|(name, ..)| !loar_formats::names::is_mtp(&self.config, name))
            .map(|(_, shape, _)| shape.iter().product::<usize>())
            .sum()
    }

    pub fn trainable_count(&self) -> usize {
        self.params.count()
    }
}
