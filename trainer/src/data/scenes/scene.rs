//! A scene: one to five objects, no two of one colour and shape, on a light ground, at times beside a curtain that may
//! hide more. What can be said of it is in `questions`.

use super::figure::{Canvas, Colour, Figure, GROUNDS, Shape};
use engine::rng::Philox;
use serde_json::{Value, json};

/// Most objects of a scene.
const MOST: usize = 5;
/// Radii of small and large objects, as shares of the side.
const RADII: [f64; 2] = [0.07, 0.115];
/// Least room between two objects, and between an object and the edge.
const ROOM: f64 = 0.02;
/// Places that are tried for an object.
const TRIES: usize = 100;
/// Share of the side that a curtain takes.
const CURTAIN: f64 = 0.22;
/// Share of scenes with a curtain.
const CURTAINS: f64 = 1.0 / 3.0;
/// Distance from which one object is clearly on one side of another.
const CLEAR: f64 = 0.12;

/// A colour and a shape together.
pub type Combination = (Colour, Shape);

/// Which combinations a split shows and asks for. Every colour has one shape that it never has in training, and so every
/// shape at least one colour, whatever the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combinations {
    /// Those of training.
    Known,
    /// One or more of the held-out ones in every scene, and what is asked for by colour and shape is held out.
    Fresh,
}

impl Combinations {
    /// Whether training never shows this colour in this shape.
    pub fn held_out((colour, shape): Combination) -> bool {
        (colour as usize + shape as usize) % Shape::ALL.len() == 3
    }

    /// All that may be shown.
    pub fn shown(self) -> Vec<Combination> {
        let all = Colour::ALL.into_iter().flat_map(|colour| Shape::ALL.map(|shape| (colour, shape)));
        all.filter(|&pair| self == Combinations::Fresh || !Combinations::held_out(pair)).collect()
    }

    /// All that may be asked for.
    pub fn asked(self) -> Vec<Combination> {
        let fresh = self == Combinations::Fresh;
        self.shown().into_iter().filter(|&pair| Combinations::held_out(pair) == fresh).collect()
    }
}

/// An object of a scene.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    pub colour: Colour,
    pub shape: Shape,
    /// Right and down from the left upper corner, in shares of the side.
    pub centre: [f64; 2],
    /// In shares of the side.
    pub radius: f64,
}

/// Where one object lies from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    pub const ALL: [Relation; 4] = [Relation::LeftOf, Relation::RightOf, Relation::Above, Relation::Below];

    pub fn words(self) -> &'static str {
        match self {
            Relation::LeftOf => "left of",
            Relation::RightOf => "right of",
            Relation::Above => "above",
            Relation::Below => "below",
        }
    }

    /// Whether it clearly holds, or clearly the opposite does; none where neither is clear.
    pub fn holds(self, first: &Object, second: &Object) -> Option<bool> {
        let axis = usize::from(matches!(self, Relation::Above | Relation::Below));
        let distance = second.centre[axis] - first.centre[axis];
        let forward = matches!(self, Relation::LeftOf | Relation::Above);
        (distance.abs() >= CLEAR).then_some((distance > 0.0) == forward)
    }
}

/// A scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub objects: Vec<Object>,
    /// Whether a curtain hides the left or right side.
    pub curtain: Option<Side>,
    pub ground: [u8; 3],
}

/// A side of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// `a red circle`, `an orange star`.
pub fn name((colour, shape): Combination) -> String {
    format!("{} {} {}", if colour == Colour::Orange { "an" } else { "a" }, colour.name(), shape.name())
}

/// Uniform in `from..to`.
pub fn between(random: &mut Philox, from: f64, to: f64) -> f64 {
    from + (to - from) * random.uniform()
}

impl Scene {
    /// A random scene.
    pub fn random(combinations: Combinations, random: &mut Philox) -> Scene {
        let mut pairs = combinations.shown();
        // In two of three scenes there are two colours or two shapes, so that there is something to count.
        let mut colours = Colour::ALL;
        let mut shapes = Shape::ALL;
        random.shuffle(&mut colours);
        random.shuffle(&mut shapes);
        match random.below(3) {
            0 => pairs.retain(|(colour, _)| colours[..2].contains(colour)),
            1 => pairs.retain(|(_, shape)| shapes[..2].contains(shape)),
            _ => {}
        }
        random.shuffle(&mut pairs);
        if combinations == Combinations::Fresh {
            // Any two colours and any two shapes have held-out combinations.
            pairs.sort_by_key(|&pair| !Combinations::held_out(pair));
            let (first, others) = pairs.split_at_mut(1);
            debug_assert!(Combinations::held_out(first[0]));
            random.shuffle(others);
        }
        pairs.truncate(1 + random.below(MOST));
        let curtain = (random.uniform() < CURTAINS).then(|| [Side::Left, Side::Right][random.below(2)]);
        let free = match curtain {
            None => 0.0..1.0,
            Some(Side::Left) => CURTAIN..1.0,
            Some(Side::Right) => 0.0..1.0 - CURTAIN,
        };
        let mut objects: Vec<Object> = Vec::new();
        for (colour, shape) in pairs {
            let radius = RADII[random.below(RADII.len())];
            let edge = radius + ROOM;
            let place = (0..TRIES).find_map(|_| {
                let centre = [between(random, free.start + edge, free.end - edge), between(random, edge, 1.0 - edge)];
                let apart = |other: &Object| {
                    let [right, down] = [0, 1].map(|axis| centre[axis] - other.centre[axis]);
                    right.hypot(down) >= radius + other.radius + ROOM
                };
                objects.iter().all(apart).then_some(centre)
            });
            objects.extend(place.map(|centre| Object { colour, shape, centre, radius }));
        }
        Scene { objects, curtain, ground: GROUNDS[random.below(GROUNDS.len())] }
    }

    /// The objects of a colour, of a shape, or of both.
    pub fn matching(&self, colour: Option<Colour>, shape: Option<Shape>) -> impl Iterator<Item = &Object> {
        let fits = move |object: &&Object| {
            colour.is_none_or(|colour| object.colour == colour) && shape.is_none_or(|shape| object.shape == shape)
        };
        self.objects.iter().filter(fits)
    }

    /// The picture.
    pub fn draw(&self, side: usize) -> Canvas {
        let mut canvas = Canvas::new(side, self.ground);
        for &Object { colour, shape, centre, radius } in &self.objects {
            let figure = Figure { shape, rgb: colour.rgb(), centre, radius: [radius; 2], turn: 0.0, opacity: 1.0 };
            canvas.draw(&figure);
        }
        let columns = self.curtain.map(|side| match side {
            Side::Left => 0.0..CURTAIN,
            Side::Right => 1.0 - CURTAIN..1.0,
        });
        if let Some(columns) = columns {
            canvas.draw_stripes(columns, [[150, 150, 154], [120, 120, 124]]);
        }
        canvas
    }

    /// `a red circle above a blue square`; of more than two objects, their names.
    pub fn caption(&self) -> String {
        let names: Vec<String> = self.objects.iter().map(|object| name((object.colour, object.shape))).collect();
        let text = match (&self.objects[..], &names[..]) {
            ([first, second], [one, other]) => {
                let [right, down] = [0, 1].map(|axis| (second.centre[axis] - first.centre[axis]).abs());
                let axis = if down > right { &Relation::ALL[2..] } else { &Relation::ALL[..2] };
                match axis.iter().find(|relation| relation.holds(first, second) == Some(true)) {
                    Some(relation) => format!("{one} {} {other}", relation.words()),
                    None => format!("{one} and {other}"),
                }
            }
            (_, [names @ .., last]) if !names.is_empty() => format!("{} and {last}", names.join(", ")),
            _ => names.concat(),
        };
        if self.curtain.is_some() { format!("{text} beside a grey curtain") } else { text }
    }

    /// What is where, for the `.json` member.
    pub fn json(&self) -> Value {
        let object = |object: &Object| {
            json!({
                "colour": object.colour.name(), "shape": object.shape.name(), "x": object.centre[0],
                "y": object.centre[1], "radius": object.radius,
                "size": if object.radius == RADII[0] { "small" } else { "large" },
            })
        };
        let mut relations = Vec::new();
        for (subject, first) in self.objects.iter().enumerate() {
            for (other, second) in self.objects.iter().enumerate().filter(|&(other, _)| other != subject) {
                let holds = |relation: &&Relation| relation.holds(first, second) == Some(true);
                let words = Relation::ALL.iter().filter(holds).map(|relation| relation.words());
                relations.extend(words.map(|words| json!({"subject": subject, "relation": words, "object": other})));
            }
        }
        let curtain = self.curtain.map(|side| if side == Side::Left { "left" } else { "right" });
        json!({
            "objects": self.objects.iter().map(object).collect::<Vec<_>>(), "relations": relations, "curtain": curtain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_sees_every_colour_and_shape_but_not_every_combination() {
        let [known, fresh] = [Combinations::Known, Combinations::Fresh].map(Combinations::asked);
        assert_eq!(known.len() + fresh.len(), Colour::ALL.len() * Shape::ALL.len());
        assert!(known.iter().all(|pair| !fresh.contains(pair)));
        for colour in Colour::ALL {
            assert_eq!(fresh.iter().filter(|pair| pair.0 == colour).count(), 1);
        }
        assert!(Shape::ALL.iter().all(|&shape| (1..3).contains(&fresh.iter().filter(|pair| pair.1 == shape).count())));
    }

    #[test]
    fn objects_are_distinct_apart_and_seen() {
        for (combinations, stream) in [(Combinations::Known, 0), (Combinations::Fresh, 1)] {
            let mut random = Philox::new(3, stream);
            for _ in 0..500 {
                let scene = Scene::random(combinations, &mut random);
                let fresh = |object: &&Object| Combinations::held_out((object.colour, object.shape));
                let fresh = scene.objects.iter().filter(fresh).count();
                assert_eq!(fresh > 0, combinations == Combinations::Fresh, "{scene:?}");
                assert!((1..=MOST).contains(&scene.objects.len()));
                let canvas = scene.draw(96);
                for (index, object) in scene.objects.iter().enumerate() {
                    let pair = (object.colour, object.shape);
                    assert!(scene.objects[..index].iter().all(|other| (other.colour, other.shape) != pair));
                    // A ring's middle is empty.
                    let right = if object.shape == Shape::Ring { 0.78 * object.radius } else { 0.0 };
                    let [x, y] = [object.centre[0] + right, object.centre[1]].map(|at| (at * 96.0) as usize);
                    let pixel = &canvas.rgb[(y * 96 + x) * 3..][..3];
                    let distance: u32 =
                        pixel.iter().zip(object.colour.rgb()).map(|(&a, b)| u32::from(a.abs_diff(b))).sum();
                    assert!(distance < 150, "{object:?}: {pixel:?}");
                }
            }
        }
    }

    #[test]
    fn captions_say_what_is_where() {
        let object = |colour, shape, x, y| Object { colour, shape, centre: [x, y], radius: RADII[0] };
        let circle = object(Colour::Red, Shape::Circle, 0.5, 0.2);
        let square = object(Colour::Blue, Shape::Square, 0.6, 0.7);
        let star = object(Colour::Orange, Shape::Star, 0.2, 0.75);
        let caption =
            |objects: &[Object], curtain| Scene { objects: objects.to_vec(), curtain, ground: [255; 3] }.caption();
        assert_eq!(caption(&[circle, square], None), "a red circle above a blue square");
        assert_eq!(caption(&[square, star], None), "a blue square right of an orange star");
        assert_eq!(caption(&[star], Some(Side::Right)), "an orange star beside a grey curtain");
        assert_eq!(caption(&[circle, square, star], None), "a red circle, a blue square and an orange star");
        let json = Scene { objects: vec![square, star], curtain: None, ground: [255; 3] }.json();
        assert_eq!(json["relations"].as_array().unwrap().len(), 2);
        assert_eq!(json["relations"][1], json!({"subject": 1, "relation": "left of", "object": 0}));
    }
}
