//! Keys and values of self-attention, row by row, in memory that the decoder reads and writes in place.

use ort::{
    memory::{AllocationDevice, Allocator},
    session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue},
    value::{DynValue, Tensor, TensorRef, TensorValueType},
};

use super::kv_cache::KvShape;

/// Where the contents of a row come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A row as it is now.
    Row(usize),
    /// What a prompt left: `[layers * 2][1, heads, any capacity, head_dim]`.
    Prompt(&'a [DynValue]),
    /// No past.
    Nothing,
}

/// `[layers * 2][rows, heads, capacity, head_dim]`: key and value, layer by layer.
pub(super) struct SelfAttention {
    shape: KvShape,
    rows: usize,
    capacity: usize,
    contents: Contents,
    /// The tensors of steps lie where host code cannot read them.
    on_device: bool,
    /// Memory for the next arrangement.
    spare: Vec<Vec<f32>>,
}

enum Contents {
    /// As arranged; the next step copies it to where the decoder writes.
    Arranged(Vec<Vec<f32>>),
    /// Both input and output of every step.
    InPlace { tensors: Vec<DynValue>, options: RunOptions<HasSelectedOutputs> },
}

impl SelfAttention {
    pub(super) fn new(shape: KvShape, on_device: bool) -> Self {
        let contents = Contents::Arranged(Vec::new());
        Self { shape, rows: 0, capacity: 0, contents, on_device, spare: Vec::new() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// No rows, and no memory for any.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.shape, self.on_device);
    }

    /// Makes new rows of `capacity` positions, each from its source and as long as it says.
    pub(super) fn arrange(&mut self, rows: &[(Source<'_>, usize)], capacity: usize) -> ort::Result<()> {
        let mut arranged = std::mem::take(&mut self.spare);
        arranged.resize_with(self.shape.layers * 2, Vec::new);
        let (heads, head_dim) = (self.shape.heads, self.shape.head_dim);
        for (index, target) in arranged.iter_mut().enumerate() {
            let copied = self.copied(index)?;
            let now = match &copied {
                Some(tensor) => tensor.extract_tensor().1,
                None => self.tensor(index)?,
            };
            let needed = rows.len() * heads * capacity * head_dim;
            target.clear();
            if target.capacity() / 4 > needed {
                // What a large batch needed is not kept for ever.
                *target = Vec::new();
            }
            target.reserve_exact(needed);
            for &(source, length) in rows {
                let (row, old_capacity) = match source {
                    Source::Nothing => (&[][..], 0),
                    Source::Row(row) => {
                        let len = heads * self.capacity * head_dim;
                        (&now[row * len..][..len], self.capacity)
                    }
                    Source::Prompt(present) => {
                        let (_, data) = present[index].try_extract_tensor::<f32>()?;
                        (data, data.len() / (heads * head_dim))
                    }
                };
                for head in 0..heads {
                    target.extend_from_slice(&row[head * old_capacity * head_dim..][..length * head_dim]);
                    // Zeros, not whatever was there: the decoder multiplies masked positions by 0, and NaN x 0 is NaN.
                    target.resize(target.len() + (capacity - length) * head_dim, 0.0);
                }
            }
        }
        if let Contents::Arranged(old) = std::mem::replace(&mut self.contents, Contents::Arranged(arranged)) {
            self.spare = old;
        }
        (self.rows, self.capacity) = (rows.len(), capacity);
        Ok(())
    }

    /// Tensor `index` as the decoder takes it.
    pub(super) fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
        match &self.contents {
            Contents::InPlace { tensors, .. } => Ok((&tensors[index]).into()),
            Contents::Arranged(arranged) => {
                let shape = [self.rows, self.shape.heads, self.capacity, self.shape.head_dim];
                Ok(TensorRef::from_array_view((shape, arranged[index].as_slice()))?.into())
            }
        }
    }

    /// After an arrangement: new memory for a step to write to, and the options that say so.
    pub(super) fn new_outputs(
        &self,
        (host, device): (&Allocator, &Allocator),
        names: &[String],
        vocab_size: usize,
    ) -> ort::Result<Option<RunOptions<HasSelectedOutputs>>> {
        if matches!(self.contents, Contents::InPlace { .. }) {
            return Ok(None);
        }
        let shape = [self.rows, self.shape.heads, self.capacity, self.shape.head_dim];
        let logits = Tensor::<f32>::new(host, [self.rows, vocab_size])?;
        let mut outputs = OutputSelector::no_default().with("logits").preallocate("logits", logits);
        for name in names {
            outputs = outputs.with(name).preallocate(name, Tensor::<f32>::new(device, shape)?);
        }
        Ok(Some(RunOptions::new()?.with_outputs(outputs)))
    }

    /// Where steps write to, if there was one since the arrangement.
    pub(super) fn options(&self) -> Option<&RunOptions<HasSelectedOutputs>> {
        match &self.contents {
            Contents::InPlace { options, .. } => Some(options),
            Contents::Arranged(_) => None,
        }
    }

    /// From now on steps read what they wrote: `tensors` are what `options` has them write to.
    pub(super) fn stay(&mut self, tensors: Vec<DynValue>, options: RunOptions<HasSelectedOutputs>) {
        if let Contents::Arranged(old) = std::mem::replace(&mut self.contents, Contents::InPlace { tensors, options }) {
            self.spare = old;
        }
    }

    /// Row `first + i` goes on from row `first + beam_idx[i]`. False if that takes an arrangement.
    pub(super) fn reorder(&mut self, first: usize, beam_idx: &[usize]) -> ort::Result<bool> {
        if self.on_device {
            return Ok(false);
        }
        let Contents::InPlace { tensors, .. } = &mut self.contents else {
            return Err(ort::Error::new("rows are reordered before their first step"));
        };
        let len = self.shape.heads * self.capacity * self.shape.head_dim;
        let mut scratch = Vec::new();
        for tensor in tensors {
            let (_, data) = tensor.try_extract_tensor_mut::<f32>()?;
            let block = &mut data[first * len..][..beam_idx.len() * len];
            scratch.clear();
            scratch.extend_from_slice(block);
            for (row, parent) in beam_idx.iter().enumerate().filter(|(row, parent)| row != *parent) {
                block[row * len..][..len].copy_from_slice(&scratch[parent * len..][..len]);
            }
        }
        Ok(true)
    }

    /// Tensor `index`, copied from the device it lies on.
    fn copied(&self, index: usize) -> ort::Result<Option<Tensor<f32>>> {
        match &self.contents {
            Contents::InPlace { tensors, .. } if self.on_device => {
                let tensor = tensors[index].view().downcast::<TensorValueType<f32>>()?;
                Ok(Some(tensor.to(AllocationDevice::CPU, 0)?))
            }
            _ => Ok(None),
        }
    }

    /// Tensor `index` for reading.
    fn tensor(&self, index: usize) -> ort::Result<&[f32]> {
        match &self.contents {
            Contents::InPlace { tensors, .. } => Ok(tensors[index].try_extract_tensor::<f32>()?.1),
            Contents::Arranged(arranged) => Ok(arranged.get(index).map_or(&[], Vec::as_slice)),
        }
    }
}
