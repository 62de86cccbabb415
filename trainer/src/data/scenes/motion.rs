//! Clips of one moving shape. Half of the classes come in pairs of which one is the other backwards: the same pictures in
//! another order, which no single frame and no shuffled clip can tell apart.

use super::figure::{Canvas, Colour, Figure, GROUNDS, Shape};
use super::scene::{Combination, Combinations, between, name};
use engine::rng::Philox;
use std::f64::consts::{FRAC_PI_2, TAU};

/// Frames of a clip.
pub const FRAMES: usize = 8;

/// What a shape does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// This, or backwards.
    Ordered(Ordered, bool),
    /// The same in either direction.
    Free(Free),
}

/// Motions whose direction matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    Right,
    Down,
    Growing,
    Appearing,
}

/// Motions that the frames tell in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    Still,
    Blinking,
    ChangingColour,
    Turning,
    Shaking,
    Circling,
    Stretching,
    Slantwise,
}

impl Motion {
    /// All classes; the first half need the order.
    pub const ALL: [Motion; 16] = [
        Motion::Ordered(Ordered::Right, false),
        Motion::Ordered(Ordered::Right, true),
        Motion::Ordered(Ordered::Down, false),
        Motion::Ordered(Ordered::Down, true),
        Motion::Ordered(Ordered::Growing, false),
        Motion::Ordered(Ordered::Growing, true),
        Motion::Ordered(Ordered::Appearing, false),
        Motion::Ordered(Ordered::Appearing, true),
        Motion::Free(Free::Still),
        Motion::Free(Free::Blinking),
        Motion::Free(Free::ChangingColour),
        Motion::Free(Free::Turning),
        Motion::Free(Free::Shaking),
        Motion::Free(Free::Circling),
        Motion::Free(Free::Stretching),
        Motion::Free(Free::Slantwise),
    ];

    pub fn words(self) -> &'static str {
        match self {
            Motion::Ordered(Ordered::Right, false) => "moving right",
            Motion::Ordered(Ordered::Right, true) => "moving left",
            Motion::Ordered(Ordered::Down, false) => "moving down",
            Motion::Ordered(Ordered::Down, true) => "moving up",
            Motion::Ordered(Ordered::Growing, false) => "growing",
            Motion::Ordered(Ordered::Growing, true) => "shrinking",
            Motion::Ordered(Ordered::Appearing, false) => "appearing",
            Motion::Ordered(Ordered::Appearing, true) => "vanishing",
            Motion::Free(Free::Still) => "standing still",
            Motion::Free(Free::Blinking) => "blinking",
            Motion::Free(Free::ChangingColour) => "changing colour",
            Motion::Free(Free::Turning) => "turning",
            Motion::Free(Free::Shaking) => "shaking",
            Motion::Free(Free::Circling) => "circling",
            Motion::Free(Free::Stretching) => "stretching",
            Motion::Free(Free::Slantwise) => "moving slantwise",
        }
    }

    pub fn needs_order(self) -> bool {
        matches!(self, Motion::Ordered(..))
    }
}

/// A clip.
pub struct Clip {
    pub motion: Motion,
    /// What is seen moving.
    pub combination: Combination,
    pub frames: Vec<Canvas>,
}

impl Clip {
    /// A random clip of a class. Both directions of an ordered motion come from the same random numbers.
    pub fn random(motion: Motion, combinations: Combinations, side: usize, random: &mut Philox) -> Clip {
        // What turns must show that it does.
        let shows = |shape: Shape| motion != Motion::Free(Free::Turning) || !shape.is_round();
        let pairs: Vec<Combination> = combinations.asked().into_iter().filter(|pair| shows(pair.1)).collect();
        let (colour, shape) = pairs[random.below(pairs.len())];
        let mut others: Vec<Colour> =
            combinations.shown().into_iter().filter(|pair| pair.1 == shape && pair.0 != colour).map(|p| p.0).collect();
        random.shuffle(&mut others);
        let ground = GROUNDS[random.below(GROUNDS.len())];
        let centre = [0; 2].map(|_| between(random, 0.42, 0.58));
        let radius = [between(random, 0.1, 0.14); 2];
        let still = Figure { shape, rgb: colour.rgb(), centre, radius, turn: 0.0, opacity: 1.0 };
        // Where a motion without direction begins, and which way it goes.
        let (phase, way) = (random.uniform(), if random.below(2) == 0 { 1.0 } else { -1.0 });
        let tilt = if random.below(2) == 0 { 1.0 } else { -1.0 };
        let frame = |time: usize| {
            let share = time as f64 / (FRAMES - 1) as f64;
            let mut figure = still;
            match motion {
                Motion::Ordered(Ordered::Right, _) => figure.centre[0] += 0.5 * (share - 0.5),
                Motion::Ordered(Ordered::Down, _) => figure.centre[1] += 0.5 * (share - 0.5),
                Motion::Ordered(Ordered::Growing, _) => {
                    figure.radius = radius.map(|radius| radius * (0.5 + 1.5 * share))
                }
                Motion::Ordered(Ordered::Appearing, _) => figure.opacity = 0.12 + 0.88 * share,
                Motion::Free(Free::Still) => {}
                Motion::Free(Free::Blinking) => figure.opacity = ((time + usize::from(phase < 0.5)) % 2) as f64,
                Motion::Free(Free::ChangingColour) => {
                    figure.rgb = if time.is_multiple_of(2) { colour } else { others[0] }.rgb();
                }
                Motion::Free(Free::Turning) => figure.turn = way * share * 0.9 * FRAC_PI_2,
                // There and back, more to one side at a time than a slant goes in one step.
                Motion::Free(Free::Shaking) => {
                    figure.centre[0] += 0.06 * if time.is_multiple_of(2) { way } else { -way };
                }
                Motion::Free(Free::Circling) => {
                    let (sine, cosine) = (TAU * (phase + way * time as f64 / FRAMES as f64)).sin_cos();
                    figure.centre = [centre[0] + 0.22 * cosine, centre[1] + 0.22 * sine];
                }
                Motion::Free(Free::Stretching) => {
                    let stretch = (TAU * (phase + share)).sin();
                    figure.radius = [radius[0] * (1.0 + 0.5 * stretch), radius[1] * (1.0 - 0.5 * stretch)];
                }
                Motion::Free(Free::Slantwise) => {
                    figure.centre[0] += 0.45 * way * (share - 0.5);
                    figure.centre[1] += 0.45 * way * tilt * (share - 0.5);
                }
            }
            let mut canvas = Canvas::new(side, ground);
            canvas.draw(&figure);
            canvas
        };
        let mut frames: Vec<Canvas> = (0..FRAMES).map(frame).collect();
        if let Motion::Ordered(_, true) = motion {
            frames.reverse();
        }
        Clip { motion, combination: (colour, shape), frames }
    }

    /// `a red circle growing`.
    pub fn caption(&self) -> String {
        format!("{} {}", name(self.combination), self.motion.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_classes_are_others_backwards() {
        assert_eq!(Motion::ALL.iter().filter(|motion| motion.needs_order()).count(), Motion::ALL.len() / 2);
        let clip = |motion, seed| Clip::random(motion, Combinations::Known, 32, &mut Philox::new(seed, 0));
        for seed in 0..20 {
            for pair in Motion::ALL.chunks(2).filter(|pair| pair[0].needs_order()) {
                let [forward, backward] = [pair[0], pair[1]].map(|motion| clip(motion, seed));
                assert_eq!(forward.combination, backward.combination);
                assert_ne!(forward.frames, backward.frames, "{pair:?}");
                assert!(forward.frames.iter().eq(backward.frames.iter().rev()), "{pair:?}");
            }
        }
    }

    #[test]
    fn every_motion_but_standing_still_changes_what_is_seen() {
        for motion in Motion::ALL {
            for seed in 0..20 {
                let clip = Clip::random(motion, Combinations::Fresh, 32, &mut Philox::new(seed, 1));
                let moves = clip.frames.iter().any(|frame| *frame != clip.frames[0]);
                assert_eq!(moves, motion != Motion::Free(Free::Still), "{motion:?} {seed}");
                assert!(Combinations::held_out(clip.combination));
                assert!(clip.caption().ends_with(motion.words()));
            }
        }
    }
}
