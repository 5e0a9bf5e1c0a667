//! Keys and values of self-attention, row by row, in memory that the decoder reads and writes in place.
//!
//! Rows that have changed are arranged in new tensors in the CPU's memory. The next step reads them there and writes to
//! new tensors; from then on those tensors are both input and output of every step, and a row that only moves is copied
//! inside them.

use ndarray::{Array4, ArrayView1, ArrayView3, ArrayView4, ArrayViewMut3, Axis, Ix4};
use ort::{
    memory::{AllocationDevice, Allocator},
    session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue},
    value::{DynValue, Tensor, TensorRef, TensorValueType},
};

use crate::blip::{
    kv::shape::KvShape,
    tensor::{view, view_mut},
};

/// A row as it is to be arranged.
pub(crate) struct Row<'a> {
    pub(crate) source: Source<'a>,
    /// Positions in use.
    pub(crate) length: usize,
}

/// Where the contents of a row come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A row of the last arrangement.
    Row(usize),
    /// What a prompt left: `[layers * 2][1, heads, any capacity, head_dim]`.
    Prompt(&'a [DynValue]),
    /// The row has no past.
    Empty,
}

/// `[layers * 2][rows, heads, capacity, head_dim]`: key and value, layer by layer.
pub(crate) struct SelfAttention {
    shape: KvShape,
    rows: usize,
    capacity: usize,
    contents: Contents,
    /// Whether the tensors of steps are in the memory of a device, which host code cannot read.
    on_device: bool,
    /// Memory for the next arrangement.
    spare: Vec<Array4<f32>>,
}

enum Contents {
    /// As arranged; the next step copies it to where the decoder writes.
    Arranged(Vec<Array4<f32>>),
    /// Both input and output of every step.
    InPlace { tensors: Vec<DynValue>, options: RunOptions<HasSelectedOutputs> },
}

impl SelfAttention {
    pub(crate) fn new(shape: KvShape, on_device: bool) -> Self {
        let contents = Contents::Arranged(vec![Array4::zeros(shape.self_attention(0, 0)); shape.tensors()]);
        Self { shape, rows: 0, capacity: 0, contents, on_device, spare: Vec::new() }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Removes all rows and frees their memory.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.shape, self.on_device);
    }

    /// Makes `rows`, each of `capacity` positions; `lengths` are the positions that the rows so far have in use.
    pub(crate) fn arrange(
        &mut self,
        rows: &[Row<'_>],
        capacity: usize,
        lengths: &ArrayView1<'_, i64>,
    ) -> ort::Result<()> {
        let fits = rows.len() == self.rows && capacity == self.capacity && !self.on_device;
        if fits && let Contents::InPlace { tensors, .. } = &mut self.contents {
            return move_rows(tensors, self.shape, rows, lengths);
        }
        let mut spare = std::mem::take(&mut self.spare);
        let mut arranged = Vec::with_capacity(self.shape.tensors());
        for index in 0..self.shape.tensors() {
            let mut target = reuse(spare.pop(), self.shape.self_attention(rows.len(), capacity))?;
            let copied = self.copy_from_device(index)?;
            let current = match &copied {
                Some(tensor) => tensor.extract_array().into_dimensionality().map_err(ort::Error::wrap)?,
                None => self.view(index)?,
            };
            for (row, target) in rows.iter().zip(target.outer_iter_mut()) {
                write_row(target, &row.values(index, &current)?);
            }
            arranged.push(target);
        }
        self.replace(Contents::Arranged(arranged));
        (self.rows, self.capacity) = (rows.len(), capacity);
        Ok(())
    }

    /// Tensor `index` as the decoder takes it.
    pub(crate) fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
        match &self.contents {
            Contents::InPlace { tensors, .. } => Ok((&tensors[index]).into()),
            Contents::Arranged(arranged) => Ok(TensorRef::from_array_view(&arranged[index])?.into()),
        }
    }

    /// After an arrangement: new memory for a step to write to, and the options that select it.
    pub(crate) fn new_outputs(
        &self,
        allocator: &Allocator,
        names: &[String],
    ) -> ort::Result<Option<RunOptions<HasSelectedOutputs>>> {
        if matches!(self.contents, Contents::InPlace { .. }) {
            return Ok(None);
        }
        let shape = self.shape.self_attention(self.rows, self.capacity);
        let mut outputs = OutputSelector::no_default().with("logits");
        for name in names {
            outputs = outputs.with(name).preallocate(name, Tensor::<f32>::new(allocator, shape)?);
        }
        Ok(Some(RunOptions::new()?.with_outputs(outputs)))
    }

    /// Options that have steps write in place, if there was a step since the arrangement.
    pub(crate) fn options(&self) -> Option<&RunOptions<HasSelectedOutputs>> {
        match &self.contents {
            Contents::InPlace { options, .. } => Some(options),
            Contents::Arranged(_) => None,
        }
    }

    /// Makes `tensors`, to which `options` direct the outputs, the input of every following step.
    pub(crate) fn bind_in_place(&mut self, tensors: Vec<DynValue>, options: RunOptions<HasSelectedOutputs>) {
        self.replace(Contents::InPlace { tensors, options });
    }

    fn replace(&mut self, contents: Contents) {
        if let Contents::Arranged(old) = std::mem::replace(&mut self.contents, contents) {
            self.spare = old;
        }
    }

    /// Tensor `index`, copied from the device it lies on.
    fn copy_from_device(&self, index: usize) -> ort::Result<Option<Tensor<f32>>> {
        match &self.contents {
            Contents::InPlace { tensors, .. } if self.on_device => {
                let tensor = tensors[index].view().downcast::<TensorValueType<f32>>()?;
                Ok(Some(tensor.to(AllocationDevice::CPU, 0)?))
            }
            _ => Ok(None),
        }
    }

    /// The tensors that steps read and write, for tests of the cache, which write them.
    #[cfg(test)]
    pub(crate) fn tensors_mut(&mut self) -> &mut [DynValue] {
        match &mut self.contents {
            Contents::InPlace { tensors, .. } => tensors,
            Contents::Arranged(_) => &mut [],
        }
    }

    /// Tensor `index` in the CPU's memory.
    pub(crate) fn view(&self, index: usize) -> ort::Result<ArrayView4<'_, f32>> {
        match &self.contents {
            Contents::InPlace { tensors, .. } => view(&tensors[index]),
            Contents::Arranged(arranged) => Ok(arranged[index].view()),
        }
    }
}

impl<'a> Row<'a> {
    /// What the row is to hold of tensor `index`, whose last arrangement is `current`: `[heads, length, head_dim]`.
    fn values<'v>(&self, index: usize, current: &ArrayView4<'v, f32>) -> ort::Result<ArrayView3<'v, f32>>
    where
        'a: 'v,
    {
        let (_, heads, _, head_dim) = current.dim();
        let row = match self.source {
            Source::Empty => ArrayView3::from_shape((heads, 0, head_dim), &[]).map_err(ort::Error::wrap)?,
            Source::Row(row) => (*current).index_axis_move(Axis(0), row),
            Source::Prompt(present) => view::<Ix4>(&present[index])?.index_axis_move(Axis(0), 0),
        };
        Ok(row.split_at(Axis(1), self.length).0)
    }
}

/// Moves rows inside the tensors: only rows whose source changed are written.
fn move_rows(
    tensors: &mut [DynValue],
    shape: KvShape,
    rows: &[Row<'_>],
    lengths: &ArrayView1<'_, i64>,
) -> ort::Result<()> {
    let is_new = |(index, row): &(usize, &Row<'_>)| !matches!(row.source, Source::Row(old) if old == *index);
    let new: Vec<_> = rows.iter().enumerate().filter(is_new).collect();
    let longest = new.iter().map(|(_, row)| row.length).max().unwrap_or(0);
    let mut copies = Array4::zeros(shape.self_attention(new.len(), longest));
    for (index, tensor) in tensors.iter_mut().enumerate() {
        let mut tensor = view_mut::<Ix4>(tensor)?;
        // All are read before one is written: rows can change places.
        for ((_, row), copy) in new.iter().zip(copies.outer_iter_mut()) {
            write_row(copy, &row.values(index, &tensor.view())?);
        }
        for (&(target, row), copy) in new.iter().zip(copies.outer_iter()) {
            // The rest of a row is zeros.
            let written = row.length.max(lengths[target] as usize);
            let (target, _) = tensor.index_axis_mut(Axis(0), target).split_at(Axis(1), written);
            write_row(target, &copy.split_at(Axis(1), row.length).0);
        }
    }
    Ok(())
}

/// Writes `values`, `[heads, length, head_dim]`, to the first positions of each head, and zeros after them.
fn write_row(mut row: ArrayViewMut3<'_, f32>, values: &ArrayView3<'_, f32>) {
    for (head, values) in row.outer_iter_mut().zip(values.outer_iter()) {
        let (mut used, mut unused) = head.split_at(Axis(0), values.nrows());
        used.assign(&values);
        // Zeros, not the old values: the decoder multiplies masked positions by 0, and NaN x 0 is NaN.
        unused.fill(0.0);
    }
}

/// An array of these dimensions with arbitrary numbers, in the memory of `spare` if that is large enough.
fn reuse(spare: Option<Array4<f32>>, shape: [usize; 4]) -> ort::Result<Array4<f32>> {
    let len = shape.iter().product();
    let mut data = spare.map(|spare| spare.into_raw_vec_and_offset().0).unwrap_or_default();
    // The memory of a much larger batch is freed.
    if (len..=len * 4).contains(&data.capacity()) {
        data.resize(len, 0.0);
    } else {
        data = vec![0.0; len];
    }
    Array4::from_shape_vec(shape, data).map_err(ort::Error::wrap)
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayView2, array, aview1};

    use super::*;
    use crate::blip::runtime::test_library;

    const SHAPE: KvShape = KvShape { layers: 1, heads: 2, head_dim: 1, image_tokens: 1 };

    fn row(source: Source<'_>, length: usize) -> Row<'_> {
        Row { source, length }
    }

    #[test]
    fn a_moved_row_has_zeros_after_its_end() {
        let _library = test_library();
        // Two heads of four positions in each of three rows, of which 4, 3 and 1 are written.
        let rows = array![
            [1., 2., 3., 4., 5., 6., 7., 8.],
            [11., 12., 13., 0., 15., 16., 17., 0.],
            [21., 0., 0., 0., 25., 0., 0., 0.],
        ];
        let tensor = Tensor::from_array(rows.clone().into_shape_with_order((3, 2, 4, 1)).unwrap()).unwrap();
        let mut tensors = vec![tensor.into_dyn()];
        let next = [row(Source::Row(1), 2), row(Source::Row(0), 4), row(Source::Empty, 0)];
        move_rows(&mut tensors, SHAPE, &next, &aview1(&[4, 3, 1])).unwrap();
        let moved = view::<Ix4>(&tensors[0]).unwrap();
        let moved: ArrayView2<'_, f32> = moved.into_shape_with_order((3, 8)).unwrap();
        assert_eq!(moved.row(0), aview1(&[11., 12., 0., 0., 15., 16., 0., 0.]));
        assert_eq!(moved.row(1), rows.row(0));
        assert_eq!(moved.row(2), aview1(&[0.; 8]));
    }

    #[test]
    fn memory_of_the_last_arrangement_is_used_unless_it_is_far_too_large() {
        let spare = Array4::ones((4, 2, 8, 1));
        let memory = spare.as_ptr();
        let smaller = reuse(Some(spare), [2, 2, 8, 1]).unwrap();
        assert_eq!((smaller.as_ptr(), smaller.shape()), (memory, &[2, 2, 8, 1][..]));
        let larger = reuse(Some(smaller), [4, 2, 8, 1]).unwrap();
        assert_eq!(larger.as_ptr(), memory);
        let small = reuse(Some(larger), [1, 2, 4, 1]).unwrap();
        assert_eq!(small.into_raw_vec_and_offset().0.capacity(), 8);
    }
}
