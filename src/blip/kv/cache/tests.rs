//! The cache against a model of it that is only lists, over any sequence of changes and steps.

#![expect(clippy::float_cmp, reason = "the numbers are copied, not computed")]

use ndarray::{Array4, ArrayView4, Axis, Ix4};
use ort::{memory::Allocator, value::Tensor};
use proptest::prelude::*;

use super::*;
use crate::blip::{
    runtime::test_library,
    tensor::{view, view_mut},
};

const SHAPE: KvShape = KvShape { layers: 1, heads: 2, head_dim: 2, image_tokens: 1 };

/// What can happen to a cache. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Event {
    Join { prompt: usize, rows: usize },
    Leave { image: usize },
    Reorder { image: usize, beam_idx: Vec<usize> },
    Steps(usize),
}

/// An image of the model: for each of its rows, the value that every position was written with.
struct ListedImage {
    id: f32,
    rows: Vec<Vec<f32>>,
    can_reorder: bool,
}

/// A cache and its model.
struct Pair {
    cache: KvCache,
    images: Vec<ListedImage>,
    next_value: f32,
}

/// The number that stands for `value` in a place of a tensor.
fn number(value: f32, tensor: usize, head: usize, column: usize) -> f32 {
    value * 100.0 + (tensor * 10 + head * 3 + column) as f32
}

fn encoded_image(id: f32) -> Arc<EncodedImage> {
    let tensor = |index| Array4::from_elem(SHAPE.cross_attention(index, 1), id * 100.0 + index as f32);
    let tensors = (0..SHAPE.tensors()).map(|index| Tensor::from_array(tensor(index)).unwrap().into_dyn());
    Arc::new(EncodedImage { tensors: tensors.collect() })
}

/// The tensors of a prompt, with other numbers after its length.
fn prompt_past(values: &[f32]) -> PromptPast {
    if values.is_empty() {
        return PromptPast::default();
    }
    let shape = SHAPE.self_attention(1, values.len() + 2);
    let tensor = |index| {
        Array4::from_shape_fn(shape, |(_, head, position, column)| {
            values.get(position).map_or(f32::NAN, |value| number(*value, index, head, column))
        })
    };
    let tensors = (0..SHAPE.tensors()).map(|index| Tensor::from_array(tensor(index)).unwrap().into_dyn());
    PromptPast { tensors: tensors.collect(), length: values.len() }
}

impl Pair {
    fn new() -> Self {
        Self { cache: KvCache::new(SHAPE, false), images: Vec::new(), next_value: 1.0 }
    }

    fn value(&mut self) -> f32 {
        self.next_value += 1.0;
        self.next_value
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Join { prompt, rows } => {
                let (id, past) = (self.value(), (0..*prompt).map(|_| self.value()).collect::<Vec<_>>());
                self.cache.push(encoded_image(id), prompt_past(&past), *rows).unwrap();
                self.images.push(ListedImage { id, rows: vec![past; *rows], can_reorder: false });
            }
            Event::Leave { image } if !self.images.is_empty() => {
                let index = image % self.images.len();
                self.cache.swap_remove(index);
                self.images.swap_remove(index);
                self.cache.release();
            }
            Event::Reorder { image, beam_idx } if !self.images.is_empty() => {
                let index = image % self.images.len();
                let image = &mut self.images[index];
                let beam_idx: Vec<_> = beam_idx.iter().map(|beam| beam % image.rows.len()).collect();
                let reordered = self.cache.reorder(index, &beam_idx);
                assert_eq!(reordered.is_ok(), image.can_reorder);
                if image.can_reorder && !beam_idx.iter().copied().eq(0..image.rows.len()) {
                    image.rows = beam_idx.iter().map(|beam| image.rows[*beam].clone()).collect();
                    image.can_reorder = false;
                }
            }
            Event::Steps(steps) => (0..*steps).for_each(|_| self.step()),
            Event::Leave { .. } | Event::Reorder { .. } => {}
        }
        assert_eq!(self.cache.rows(), self.images.iter().map(|image| image.rows.len()).sum::<usize>());
    }

    /// Does what a step of the decoder does with the cache: it writes one position to each row.
    fn step(&mut self) {
        if self.images.is_empty() {
            return;
        }
        self.cache.arrange(None).unwrap();
        self.compare();
        let values: Vec<f32> = (0..self.cache.rows()).map(|_| self.value()).collect();
        let attention = &mut self.cache.self_attention;
        if let Some(options) = attention.new_outputs(&Allocator::default(), &[]).unwrap() {
            let copy = |index| Tensor::from_array(attention.view(index).unwrap().to_owned()).unwrap().into_dyn();
            let tensors = (0..SHAPE.tensors()).map(copy).collect();
            attention.bind_in_place(tensors, options);
        }
        for (index, tensor) in attention.tensors_mut().iter_mut().enumerate() {
            let mut tensor = view_mut::<Ix4>(tensor).unwrap();
            for (row, value) in values.iter().enumerate() {
                let position = self.cache.layout.past_lengths[row] as usize;
                for ((head, column), target) in
                    tensor.index_axis_mut(Axis(0), row).index_axis_mut(Axis(1), position).indexed_iter_mut()
                {
                    *target = number(*value, index, head, column);
                }
            }
        }
        self.cache.advance();
        let mut values = values.into_iter();
        for image in &mut self.images {
            image.can_reorder = true;
            image.rows.iter_mut().zip(values.by_ref()).for_each(|(row, value)| row.push(value));
        }
    }

    /// Compares what the next step is given with the model.
    fn compare(&self) {
        let (cache, layout) = (&self.cache, &self.cache.layout);
        let rows: Vec<_> = self.images.iter().flat_map(|image| &image.rows).collect();
        let lengths: Vec<_> = rows.iter().map(|row| row.len() as i64).collect();
        assert_eq!(layout.past_lengths.to_vec(), lengths);
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        assert_eq!(cache.self_attention.capacity(), (longest + 1).next_power_of_two().max(32));
        for index in 0..SHAPE.tensors() {
            let tensor = cache.self_attention.view(index).unwrap();
            assert_eq!(tensor.shape(), SHAPE.self_attention(rows.len(), cache.self_attention.capacity()));
            for ((row, head, position, column), found) in tensor.indexed_iter() {
                // The rest of a row is zeros.
                let expected = rows[row].get(position).map_or(0.0, |value| number(*value, index, head, column));
                assert_eq!(*found, expected, "tensor {index}, row {row}, head {head}, position {position}");
            }
        }
        self.compare_images();
    }

    /// Each row finds its image in the cross-attention tensors, and each beam of an image its row.
    fn compare_images(&self) {
        let layout = &self.cache.layout;
        let beams = layout.image_rows.ncols();
        let mut row = 0;
        for image in &self.images {
            let first = row;
            for beam in 0..beams {
                let slot = layout.row_slots[first] as usize / beams;
                let expected = if beam < image.rows.len() { first + beam } else { first };
                assert_eq!(layout.image_rows[[slot, beam]], expected as i64);
            }
            for beam in 0..image.rows.len() {
                let (slot, column) = (layout.row_slots[row] as usize / beams, layout.row_slots[row] as usize % beams);
                assert_eq!(column, beam);
                for index in 0..SHAPE.tensors() {
                    let input = self.cache.cross_attention.input(index).unwrap();
                    let tensor: ArrayView4<'_, f32> = view(&input).unwrap();
                    assert_eq!(tensor.shape(), SHAPE.cross_attention(index, self.images.len()));
                    let expected = image.id * 100.0 + index as f32;
                    assert!(tensor.index_axis(Axis(0), slot).iter().all(|found| *found == expected));
                }
                row += 1;
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let prompt = prop_oneof![2 => Just(0), 2 => 1..8_usize, 1 => 28..36_usize];
    prop_oneof![
        3 => (prompt, 1..4_usize).prop_map(|(prompt, rows)| Event::Join { prompt, rows }),
        2 => (0..8_usize).prop_map(|image| Event::Leave { image }),
        3 => (0..8_usize, prop::collection::vec(0..8_usize, 1..5))
            .prop_map(|(image, beam_idx)| Event::Reorder { image, beam_idx }),
        4 => (1..4_usize).prop_map(Event::Steps),
        1 => (20..34_usize).prop_map(Event::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_keeps_its_past_and_its_image(events in prop::collection::vec(event(), 1..24)) {
        let _library = test_library();
        let mut pair = Pair::new();
        for event in &events {
            pair.apply(event);
        }
        pair.step();
    }
}

#[test]
fn a_row_outgrows_its_capacity_and_the_next_image_starts_small() {
    let _library = test_library();
    let mut pair = Pair::new();
    pair.apply(&Event::Join { prompt: 0, rows: 1 });
    pair.apply(&Event::Steps(33));
    assert_eq!(pair.cache.self_attention.capacity(), 64);
    pair.apply(&Event::Leave { image: 0 });
    assert_eq!(pair.cache.self_attention.capacity(), 0, "an empty cache holds no memory");
    pair.apply(&Event::Join { prompt: 3, rows: 2 });
    pair.apply(&Event::Steps(1));
    assert_eq!(pair.cache.self_attention.capacity(), 32);
}

#[test]
fn a_cache_with_images_keeps_its_memory() {
    let _library = test_library();
    let mut pair = Pair::new();
    pair.apply(&Event::Join { prompt: 2, rows: 1 });
    pair.apply(&Event::Steps(1));
    pair.cache.release();
    pair.apply(&Event::Steps(1));
}

#[test]
fn beams_that_change_places_are_moved_inside_the_tensors() {
    let _library = test_library();
    let mut pair = Pair::new();
    pair.apply(&Event::Join { prompt: 2, rows: 3 });
    pair.apply(&Event::Steps(1));
    pair.apply(&Event::Reorder { image: 0, beam_idx: vec![2, 0, 1] });
    pair.cache.arrange(None).unwrap();
    assert!(pair.cache.self_attention.options().is_some(), "the tensors are those of the last step");
    pair.compare();
}
