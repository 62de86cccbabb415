//! What can be drawn: shapes in colours, on a canvas, with smooth edges.

/// Points along one axis of a pixel that are tested for cover.
const SAMPLES: usize = 4;

/// A shape. Each fits into a circle of radius 1, however it is turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Ring,
    Diamond,
}

impl Shape {
    pub const ALL: [Shape; 7] =
        [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Star, Shape::Cross, Shape::Ring, Shape::Diamond];

    pub fn name(self) -> &'static str {
        match self {
            Shape::Circle => "circle",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Star => "star",
            Shape::Cross => "cross",
            Shape::Ring => "ring",
            Shape::Diamond => "diamond",
        }
    }

    pub fn plural(self) -> String {
        format!("{}{}", self.name(), if self == Shape::Cross { "es" } else { "s" })
    }

    /// Whether it looks the same however it is turned.
    pub fn is_round(self) -> bool {
        matches!(self, Shape::Circle | Shape::Ring)
    }

    /// Whether it covers a point; x to the right, y down.
    fn covers(self, x: f64, y: f64) -> bool {
        let [wide, high] = [x.abs(), y.abs()];
        let radius = x.hypot(y);
        match self {
            Shape::Circle => radius <= 1.0,
            Shape::Square => wide.max(high) <= 0.7,
            Shape::Triangle => y <= 0.5 && 3f64.sqrt() * wide <= y + 1.0,
            Shape::Star => {
                // All ten halves of a point are folded onto one, which lies below the line from its tip to the notch.
                let tenth = std::f64::consts::PI / 5.0;
                let turn = (x.atan2(-y).abs() + tenth) % (2.0 * tenth) - tenth;
                let (along, aside) = (radius * turn.cos(), radius * turn.abs().sin());
                let [notch_along, notch_aside] = [0.42 * tenth.cos(), 0.42 * tenth.sin()];
                (1.0 - along) * notch_aside >= (1.0 - notch_along) * aside
            }
            Shape::Cross => wide.min(high) <= 0.3 && wide.max(high) <= 0.95,
            Shape::Ring => (0.55..=1.0).contains(&radius),
            Shape::Diamond => wide / 0.65 + high <= 1.0,
        }
    }
}

/// A colour with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Black,
}

impl Colour {
    pub const ALL: [Colour; 8] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
        Colour::Black,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Colour::Red => "red",
            Colour::Orange => "orange",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
            Colour::Pink => "pink",
            Colour::Black => "black",
        }
    }

    pub fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [216, 32, 36],
            Colour::Orange => [244, 132, 24],
            Colour::Yellow => [242, 208, 24],
            Colour::Green => [40, 156, 68],
            Colour::Blue => [40, 88, 216],
            Colour::Purple => [136, 52, 176],
            Colour::Pink => [246, 140, 184],
            Colour::Black => [24, 24, 28],
        }
    }
}

/// Grounds that shapes lie on; all are light, none has the name of a colour of shapes.
pub const GROUNDS: [[u8; 3]; 4] = [[255, 255, 255], [236, 236, 236], [250, 243, 224], [226, 238, 248]];

/// A shape in its place. Lengths are shares of the canvas' side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub shape: Shape,
    pub rgb: [u8; 3],
    /// Right and down, from the left upper corner.
    pub centre: [f64; 2],
    /// Half of the width and half of the height.
    pub radius: [f64; 2],
    /// Clockwise, in radians.
    pub turn: f64,
    /// From 0, not to be seen, to 1.
    pub opacity: f64,
}

/// A square picture, u8 `[side, side, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    pub side: usize,
    pub rgb: Vec<u8>,
}

impl Canvas {
    pub fn new(side: usize, ground: [u8; 3]) -> Canvas {
        Canvas { side, rgb: ground.repeat(side * side) }
    }

    /// A figure on top of what is there.
    pub fn draw(&mut self, figure: &Figure) {
        let side = self.side as f64;
        let (sine, cosine) = figure.turn.sin_cos();
        let reach = figure.radius[0].max(figure.radius[1]);
        let [columns, rows] = figure.centre.map(|centre| {
            let edge = |at: f64| (at * side).clamp(0.0, side);
            edge(centre - reach).floor() as usize..edge(centre + reach).ceil() as usize
        });
        let covered = |x: usize, y: usize, sample: usize| {
            let offset = |sample: usize| (sample as f64 + 0.5) / SAMPLES as f64;
            let right = (x as f64 + offset(sample % SAMPLES)) / side - figure.centre[0];
            let down = (y as f64 + offset(sample / SAMPLES)) / side - figure.centre[1];
            let [across, along] = [cosine * right + sine * down, cosine * down - sine * right];
            figure.shape.covers(across / figure.radius[0], along / figure.radius[1])
        };
        for (y, x) in rows.flat_map(|y| columns.clone().map(move |x| (y, x))) {
            let count = (0..SAMPLES * SAMPLES).filter(|&sample| covered(x, y, sample)).count();
            let cover = figure.opacity * count as f64 / (SAMPLES * SAMPLES) as f64;
            let pixel = &mut self.rgb[(y * self.side + x) * 3..][..3];
            for (value, colour) in pixel.iter_mut().zip(figure.rgb) {
                *value = (f64::from(*value) + cover * (f64::from(colour) - f64::from(*value))).round() as u8;
            }
        }
    }

    /// Vertical stripes over the columns of this share of the side.
    pub fn draw_stripes(&mut self, columns: std::ops::Range<f64>, colours: [[u8; 3]; 2]) {
        let side = self.side;
        let edge = |share: f64| (share * side as f64).round() as usize;
        let width = (side / 32).max(1);
        for (y, x) in (0..side).flat_map(|y| (edge(columns.start)..edge(columns.end)).map(move |x| (y, x))) {
            self.rgb[(y * side + x) * 3..][..3].copy_from_slice(&colours[x / width % 2]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of the circumscribed square that a shape covers.
    fn area(shape: Shape, turn: f64, radius: [f64; 2]) -> f64 {
        let mut canvas = Canvas::new(200, [255; 3]);
        let figure = Figure { shape, rgb: [0; 3], centre: [0.5; 2], radius, turn, opacity: 1.0 };
        canvas.draw(&figure);
        let dark: f64 = canvas.rgb.iter().step_by(3).map(|&value| 1.0 - f64::from(value) / 255.0).sum();
        dark / (200.0 * 200.0 * 4.0 * radius[0] * radius[1])
    }

    #[test]
    fn shapes_have_the_areas_that_geometry_gives_them() {
        let pi = std::f64::consts::PI;
        let star = 5.0 * 0.42 * (pi / 5.0).sin();
        for (shape, expected) in Shape::ALL.into_iter().zip([
            pi / 4.0,
            0.7 * 0.7,
            3.0 * 3f64.sqrt() / 16.0,
            star / 4.0,
            (4.0 * 0.3 * 0.95 - 0.6 * 0.3) / 2.0,
            pi / 4.0 * (1.0 - 0.55 * 0.55),
            0.65 / 2.0,
        ]) {
            for (turn, radius) in [(0.0, [0.4, 0.4]), (0.7, [0.4, 0.4]), (0.0, [0.3, 0.4])] {
                let found = area(shape, turn, radius);
                assert!((found - expected).abs() < 0.01, "{shape:?} {turn} {radius:?}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn what_reaches_over_the_edge_is_cut() {
        let mut canvas = Canvas::new(20, [255; 3]);
        for centre in [[0.0, 0.0], [1.0, 0.5], [2.0, -1.0]] {
            let radius = [0.2; 2];
            canvas.draw(&Figure { shape: Shape::Circle, rgb: [0; 3], centre, radius, turn: 0.0, opacity: 0.5 });
        }
        let pixel = |x: usize, y: usize| canvas.rgb[(y * 20 + x) * 3];
        assert_eq!((pixel(0, 0), pixel(19, 10), pixel(10, 10), pixel(19, 0)), (128, 128, 255, 255));
    }
}
