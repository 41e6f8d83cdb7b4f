//! The charts of the page, as SVG. Text has the colour of the page by its style; figures as text stand beside them.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::drawing::{Area, Drawn, svg};
use crate::transform::parse_utc_us;

/// Wide enough for a card, and still legible when a phone makes it smaller.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 270;
const BAR_HEIGHT: u32 = 30;
const FONT: (&str, u32) = ("sans-serif", 20);
const GREY: RGBColor = RGBColor(0x7d, 0x85, 0x8f);
/// Apart from each other for most eyes, and from white and black backgrounds. The page's style has the same.
pub(super) const COLOURS: [RGBColor; 8] = [
    RGBColor(0x3b, 0x82, 0xc4),
    RGBColor(0xd9, 0x7a, 0x14),
    RGBColor(0xcf, 0x43, 0x3c),
    RGBColor(0x2a, 0x9d, 0x5c),
    RGBColor(0x8e, 0x62, 0xc9),
    RGBColor(0x1f, 0x9a, 0xa5),
    RGBColor(0xc7, 0x57, 0x8f),
    GREY,
];
/// A bar of what is below zero, which goes to the same side.
const BELOW_ZERO: RGBColor = COLOURS[2];
/// Letters of a name in a picture; its table has all.
const NAME_LETTERS: usize = 14;
const HOUR_US: i64 = 3_600_000_000;

/// Values of one colour.
pub(super) struct Series {
    pub(super) colour: RGBColor,
    /// One for each hour; none where there is nothing.
    pub(super) values: Vec<Option<f64>>,
}

/// The colour of number `index` of the kinds that are told apart.
pub(super) fn colour(index: usize) -> RGBColor {
    COLOURS[index.min(COLOURS.len() - 1)]
}

/// Shares of a whole, as a ring with the sum in its middle.
pub(super) fn donut(title: &str, about: &str, shares: &[(f64, RGBColor)], sum: &str) -> String {
    const SIZE: u32 = 200;
    let middle = (100, 100);
    svg((SIZE, SIZE), title, about, |area| {
        let (sizes, colours): (Vec<f64>, Vec<RGBColor>) = shares.iter().copied().unzip();
        let (radius, labels) = (92.0, vec![""; shares.len()]);
        let mut ring = Pie::new(&middle, &radius, &sizes, &colours, &labels);
        ring.start_angle(-90.0);
        ring.donut_hole(56.0);
        area.draw(&ring)?;
        area.draw(&Text::new(sum.to_owned(), middle, style(area, HPos::Center, VPos::Center)))
    })
}

/// One bar for each name, from the top, with its figure.
pub(super) fn bars(title: &str, about: &str, rows: &[(String, f64, String)]) -> String {
    const NAMES: i32 = 160;
    const FIGURES: i32 = 130;
    let height = BAR_HEIGHT * u32::try_from(rows.len()).unwrap_or(1).max(1);
    svg((WIDTH, height), title, about, |area| {
        let most = rows.iter().map(|(_, value, _)| value.abs()).fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(WIDTH) - f64::from(NAMES + FIGURES);
        for ((name, value, figure), top) in rows.iter().zip((0..).step_by(BAR_HEIGHT as usize)) {
            let middle = top + 15;
            area.draw(&Text::new(short(name), (NAMES - 10, middle), style(area, HPos::Right, VPos::Center)))?;
            #[expect(clippy::cast_possible_truncation, reason = "it is within the picture")]
            let end = NAMES + (value.abs() / most * room).round().max(1.0) as i32;
            let bar = [(NAMES, top + 5), (end, top + 25)];
            let colour = if *value < 0.0 { BELOW_ZERO } else { colour(0) };
            area.draw(&Rectangle::new(bar, colour.filled()))?;
            area.draw(&Text::new(figure.clone(), (end + 8, middle), style(area, HPos::Left, VPos::Center)))?;
        }
        Ok(())
    })
}

/// Bars of each hour, one series on the other.
pub(super) fn stacked(title: &str, about: &str, hours: &[String], series: &[Series]) -> String {
    let sum = |at: usize| series.iter().filter_map(|one| one.values[at]).sum::<f64>();
    over_hours(title, about, hours, (0.0, (0..hours.len()).map(sum).fold(0.0, f64::max)), |chart| {
        let mut below = vec![0.0; hours.len()];
        for Series { colour, values } in series {
            let bars = values.iter().zip(&mut below).zip(0u32..).filter_map(|((value, below), at)| {
                let (from, at) = (*below, f64::from(at));
                *below += (*value)?;
                Some(Rectangle::new([(at + 0.08, from), (at + 0.92, *below)], colour.filled()))
            });
            chart.draw_series(bars)?;
        }
        Ok(())
    })
}

/// A line for each series, broken where an hour has no value; `bars` of each hour behind them.
pub(super) fn lines(
    title: &str,
    about: &str,
    hours: &[String],
    bars: Option<&Series>,
    series: &[Series],
) -> String {
    let values = || series.iter().chain(bars).flat_map(|one| one.values.iter().flatten().copied());
    let range = values().map(|value| (value, value)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let (least, most) = range.unwrap_or_default();
    // From zero, but where that would hide the differences.
    let least = if bars.is_none() && least > most * 0.5 { least } else { least.min(0.0) };
    over_hours(title, about, hours, (least, most), |chart| {
        if let Some(Series { colour, values }) = bars {
            chart.draw_series(values.iter().zip(0u32..).filter_map(|(value, at)| {
                let at = f64::from(at);
                Some(Rectangle::new([(at + 0.08, least), (at + 0.92, (*value)?)], colour.filled()))
            }))?;
        }
        for Series { colour, values } in series {
            for piece in pieces(hours, values) {
                chart.draw_series(LineSeries::new(piece.iter().copied(), colour.stroke_width(2)))?;
                if hours.len() <= 48 || piece.len() == 1 {
                    chart.draw_series(piece.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
                }
            }
        }
        Ok(())
    })
}

/// Points in the middle of their places, apart where more than an hour is missing between them.
fn pieces(hours: &[String], values: &[Option<f64>]) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut before = None;
    for ((hour, value), at) in hours.iter().zip(values).zip(0u32..) {
        let Some(value) = value else { continue };
        let us = parse_utc_us(hour.replace(' ', "T").as_bytes());
        let follows = us.zip(before).is_some_and(|(us, before): (i64, i64)| us - before <= HOUR_US);
        if !follows {
            pieces.push(Vec::new());
        }
        before = us;
        pieces.last_mut().expect("one was begun").push((f64::from(at) + 0.5, *value));
    }
    pieces
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Each hour has a place of the same width, in their order.
fn over_hours(
    title: &str,
    about: &str,
    hours: &[String],
    (least, most): (f64, f64),
    draw: impl for<'a, 'b> FnOnce(&mut Chart<'a, 'b>) -> Drawn<'b>,
) -> String {
    let places = f64::from(u32::try_from(hours.len()).unwrap_or(1).max(1));
    // Steps too small for a float have no end.
    let apart = most - least > most.abs().max(least.abs()) * 1e-9;
    let room = if apart { (most - least) * 0.08 } else { most.abs().max(1.0) * 0.1 };
    let bottom = if least == 0.0 { 0.0 } else { least - room };
    let top = most + room;
    svg((WIDTH, HEIGHT), title, about, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(10)
            .margin_right(10)
            .x_label_area_size(30)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..places, bottom..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_labels(5)
            .y_label_formatter(&|y| tick(*y))
            .light_line_style(GREY.mix(0.0))
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style(FONT)
            .draw()?;
        draw(&mut chart)?;
        for (at, anchor) in labelled(hours.len()) {
            let middle = f64::from(u32::try_from(at).unwrap_or(0)) + 0.5;
            let (x, y) = chart.backend_coord(&(middle, bottom));
            let text = hours[at].get(5..16).map_or_else(|| short(&hours[at]), str::to_owned);
            area.draw(&Text::new(text, (x, y + 10), style(area, anchor, VPos::Top)))?;
        }
        Ok(())
    })
}

/// Hours that have their name below them.
fn labelled(hours: usize) -> Vec<(usize, HPos)> {
    match hours {
        0 => Vec::new(),
        1 => vec![(0, HPos::Center)],
        2 | 3 => vec![(0, HPos::Center), (hours - 1, HPos::Center)],
        _ => vec![(0, HPos::Left), (hours / 2, HPos::Center), (hours - 1, HPos::Right)],
    }
}

fn style<'a>(area: &Area<'_>, across: HPos, down: VPos) -> TextStyle<'a> {
    FONT.into_font().into_text_style(area).pos(Pos::new(across, down))
}

/// A figure at an axis, or at a bar that has no room for its digits.
pub(super) fn tick(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e12 => (value / 1e12, "T"),
        size if size >= 1e9 => (value / 1e9, "B"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => return format!("{value:.1e}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A name that fits.
fn short(name: &str) -> String {
    if name.chars().count() <= NAME_LETTERS {
        return name.to_owned();
    }
    name.chars().take(NAME_LETTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_where_hours_are_missing() {
        let hours =
            ["2026-01-05 03:00:00", "2026-01-05 04:00:00", "2026-01-05 06:00:00", "?"].map(str::to_owned);
        let some = [Some(1.0), Some(2.0), Some(3.0), Some(4.0)];
        let found = pieces(&hours, &some);
        assert_eq!(found, [vec![(0.5, 1.0), (1.5, 2.0)], vec![(2.5, 3.0)], vec![(3.5, 4.0)]]);
        assert_eq!(pieces(&hours[..2], &[Some(1.0), None]), [[(0.5, 1.0)]]);
    }

    #[test]
    fn figures_at_an_axis_are_short() {
        let figures = [0.0, 0.5, 0.25, 12.0, 9_999.0, 12_500.0, 3e6, 4.2e9, 1.92e12, 0.000_012, -70_000.0];
        let expected = ["0", "0.5", "0.25", "12", "9999", "12.5k", "3M", "4.2B", "1.92T", "1.2e-5", "-70k"];
        assert_eq!(figures.map(tick), expected);
        assert_eq!(short("BTC/USD"), "BTC/USD");
        assert_eq!(short("a name that is long"), "a name that i…");
    }

    #[test]
    fn every_number_of_hours_and_kinds_can_be_drawn() {
        for count in [0usize, 1, 2, 3, 4, 200] {
            let hours: Vec<String> = (0..count).map(|hour| format!("hour {hour}")).collect();
            let series = |index| Series { colour: colour(index), values: vec![Some(7.0); count] };
            let none = Series { colour: colour(0), values: vec![None; count] };
            let huge = Series { colour: colour(0), values: vec![Some(1e20), Some(1e20 + 20_000.0)] };
            for picture in [
                stacked("t", "a", &hours, &[series(0), series(99)]),
                lines("t", "a", &hours, Some(&series(0)), &[series(1)]),
                lines("t", "a", &hours, None, &[series(1)]),
                lines("t", "a", &hours, None, &[none]),
                lines("t", "a", &["1", "2"].map(str::to_owned), None, &[huge]),
                donut("t", "a", &vec![(1.0, GREY); count], "7"),
                bars("t", "a", &vec![("n".to_owned(), 0.0, "0".to_owned()); count]),
            ] {
                assert!(!picture.contains("NaN") && !picture.contains("inf"), "{count}: {picture}");
            }
        }
    }
}
