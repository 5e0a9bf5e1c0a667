//! Keys and values of self-attention, row by row, in memory that the decoder reads and writes in place.

use ort::{
    memory::{AllocationDevice, Allocator},
    session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue},
    value::{DynValue, Tensor, TensorRef, TensorValueType},
};

use crate::blip::kv::cache::KvShape;

/// Where the contents of a row come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A row as it is now.
    Row(usize),
    /// What a prompt left: `[layers * 2][1, heads, any capacity, head_dim]`.
    Prompt(&'a [DynValue]),
    /// No past.
    Nothing,
}

impl<'a> Source<'a> {
    /// The first `length` positions of each head in tensor `index`, which is `now` and has rows of this capacity.
    fn heads(
        self,
        index: usize,
        now: &'a [f32],
        (shape, capacity): (KvShape, usize),
        length: usize,
    ) -> ort::Result<impl Iterator<Item = &'a [f32]>> {
        let KvShape { heads, head_dim, .. } = shape;
        let (values, capacity) = match self {
            Source::Nothing => (&[][..], 0),
            Source::Row(row) => (&now[row * heads * capacity * head_dim..], capacity),
            Source::Prompt(present) => {
                let (_, values) = present[index].try_extract_tensor::<f32>()?;
                (values, values.len() / (heads * head_dim))
            }
        };
        Ok((0..heads).map(move |head| &values[head * capacity * head_dim..][..length * head_dim]))
    }
}

/// `[layers * 2][rows, heads, capacity, head_dim]`: key and value, layer by layer.
pub(crate) struct SelfAttention {
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
    pub(crate) fn new(shape: KvShape, on_device: bool) -> Self {
        let contents = Contents::Arranged(Vec::new());
        Self { shape, rows: 0, capacity: 0, contents, on_device, spare: Vec::new() }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// No rows, and no memory for any.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.shape, self.on_device);
    }

    /// Makes rows of `capacity` positions, each from its source and as long as it says; `lengths` are those of the rows so far.
    pub(crate) fn arrange(
        &mut self,
        rows: &[(Source<'_>, usize)],
        capacity: usize,
        lengths: &[i64],
    ) -> ort::Result<()> {
        let fits = rows.len() == self.rows && capacity == self.capacity && !self.on_device;
        if fits && let Contents::InPlace { tensors, .. } = &mut self.contents {
            return rearrange(tensors, self.shape, rows, (capacity, lengths));
        }
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
                for values in source.heads(index, now, (self.shape, self.capacity), length)? {
                    target.extend_from_slice(values);
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
    pub(crate) fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
        match &self.contents {
            Contents::InPlace { tensors, .. } => Ok((&tensors[index]).into()),
            Contents::Arranged(arranged) => {
                let shape = [self.rows, self.shape.heads, self.capacity, self.shape.head_dim];
                Ok(TensorRef::from_array_view((shape, arranged[index].as_slice()))?.into())
            }
        }
    }

    /// After an arrangement: new memory for a step to write to, and the options that say so.
    pub(crate) fn new_outputs(
        &self,
        allocator: &Allocator,
        names: &[String],
    ) -> ort::Result<Option<RunOptions<HasSelectedOutputs>>> {
        if matches!(self.contents, Contents::InPlace { .. }) {
            return Ok(None);
        }
        let shape = [self.rows, self.shape.heads, self.capacity, self.shape.head_dim];
        let mut outputs = OutputSelector::no_default().with("logits");
        for name in names {
            outputs = outputs.with(name).preallocate(name, Tensor::<f32>::new(allocator, shape)?);
        }
        Ok(Some(RunOptions::new()?.with_outputs(outputs)))
    }

    /// Where steps write to, if there was one since the arrangement.
    pub(crate) fn options(&self) -> Option<&RunOptions<HasSelectedOutputs>> {
        match &self.contents {
            Contents::InPlace { options, .. } => Some(options),
            Contents::Arranged(_) => None,
        }
    }

    /// From now on steps read what they wrote: `tensors` are what `options` has them write to.
    pub(crate) fn stay(&mut self, tensors: Vec<DynValue>, options: RunOptions<HasSelectedOutputs>) {
        if let Contents::Arranged(old) = std::mem::replace(&mut self.contents, Contents::InPlace { tensors, options }) {
            self.spare = old;
        }
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

/// Arranges rows where they are: only those are written that are not what they were.
fn rearrange(
    tensors: &mut [DynValue],
    shape: KvShape,
    rows: &[(Source<'_>, usize)],
    (capacity, lengths): (usize, &[i64]),
) -> ort::Result<()> {
    let head_dim = shape.head_dim;
    let is_new = |(row, (source, _)): &(usize, _)| !matches!(source, Source::Row(old) if old == row);
    let new: Vec<(usize, (Source<'_>, usize))> = rows.iter().copied().enumerate().filter(is_new).collect();
    let mut scratch = Vec::new();
    for (index, tensor) in tensors.iter_mut().enumerate() {
        let (_, data) = tensor.try_extract_tensor_mut::<f32>()?;
        scratch.clear();
        for &(_, (source, length)) in &new {
            for values in source.heads(index, data, (shape, capacity), length)? {
                scratch.extend_from_slice(values);
            }
        }
        let mut values = scratch.as_slice();
        for &(row, (_, length)) in &new {
            for head in 0..shape.heads {
                let (used, rest) = values.split_at(length * head_dim);
                values = rest;
                let target = &mut data[(row * shape.heads + head) * capacity * head_dim..];
                target[..used.len()].copy_from_slice(used);
                // Behind a row's length are zeros.
                let behind = used.len()..(lengths[row] as usize * head_dim).max(used.len());
                target[behind].fill(0.0);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blip::Runtime;

    #[test]
    fn a_row_that_moves_leaves_nothing_behind_its_end() {
        let _library = Runtime::load(None).unwrap();
        let shape = KvShape { layers: 1, heads: 2, head_dim: 1, image_tokens: 1 };
        // Two heads of four positions in each of three rows, of which 4, 3 and 1 are written.
        let rows = [
            [1., 2., 3., 4., 5., 6., 7., 8.],
            [11., 12., 13., 0., 15., 16., 17., 0.],
            [21., 0., 0., 0., 25., 0., 0., 0.],
        ];
        let tensor = Tensor::from_array(([3, 2, 4, 1], rows.concat())).unwrap();
        let mut tensors = vec![tensor.into_dyn()];
        let next = [(Source::Row(1), 2), (Source::Row(0), 4), (Source::Nothing, 0)];
        rearrange(&mut tensors, shape, &next, (4, &[4, 3, 1])).unwrap();
        let (_, now) = tensors[0].try_extract_tensor::<f32>().unwrap();
        assert_eq!(now[..8], [11., 12., 0., 0., 15., 16., 0., 0.]);
        assert_eq!(now[8..16], rows[0]);
        assert_eq!(now[16..], [0.; 8]);
    }
}
