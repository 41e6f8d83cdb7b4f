//! The charts of a report, as SVG.

use plotters::prelude::*;

use super::chaos::Chaos;
use super::verdict::{Fault, Sample, StreamSample};
use crate::drawing::{Area, Drawn, svg};

const SIZE: (u32, u32) = (1_000, 280);
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const GREEN: RGBColor = RGBColor(0x2a, 0x9d, 0x5c);
const RED: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
/// Of several streams, in turn: apart from each other for most eyes, and from the red of the faults.
const STREAMS: [RGBColor; 4] = [BLUE, RGBColor(0xe0, 0x8a, 0x1e), GREEN, RGBColor(0x7b, 0x4f, 0xa8)];
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
/// Batches arrive in steps; this many seconds are averaged.
const AVERAGED_SECONDS: f64 = 4.0;
const FONT: (&str, u32) = ("sans-serif", 13);

/// A line with its name.
struct Line {
    name: String,
    colour: RGBColor,
    width: u32,
    points: Vec<(f64, f64)>,
}

/// Records per second, put and delivered, of these streams.
pub(super) fn throughput(streams: &[&str], samples: &[Sample], faults: &[Fault]) -> String {
    let put: fn(&StreamSample) -> u64 = |sample| sample.put;
    let delivered: fn(&StreamSample) -> u64 = |sample| sample.delivered;
    let mut lines = Vec::new();
    for (stream, name) in streams.iter().enumerate() {
        for (what, count, width, alone) in [("put", put, 1, BLUE), ("in the lake", delivered, 2, GREEN)] {
            let (name, colour) = match streams.len() {
                1 => (what.to_owned(), alone),
                _ => (format!("{name}, {what}"), STREAMS[stream % STREAMS.len()]),
            };
            let width = if streams.len() == 1 { 2 } else { width };
            lines.push(Line { name, colour, width, points: rates(stream, samples, count) });
        }
    }
    svg(SIZE, "Throughput", "Records put and delivered, per second.", |area| {
        over_time(area, "records per second", &lines, faults)
    })
}

/// Age of the oldest record not in the lake, of these streams.
pub(super) fn lag(streams: &[&str], samples: &[Sample], faults: &[Fault]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let point = |stream, sample: &Sample| (sample.seconds, of(sample, stream).lag_ms as f64 / 1_000.0);
    let line = |(stream, name): (usize, &&str)| {
        let points = samples.iter().map(|sample| point(stream, sample)).collect();
        match streams.len() {
            1 => Line { name: "lag".to_owned(), colour: RED, width: 2, points },
            _ => Line { name: (*name).to_owned(), colour: STREAMS[stream % STREAMS.len()], width: 2, points },
        }
    };
    let lines: Vec<Line> = streams.iter().enumerate().map(line).collect();
    svg(SIZE, "Lag", "Age of the oldest record that is not in the lake.", |area| {
        over_time(area, "seconds", &lines, faults)
    })
}

/// Shards without a reader.
pub(super) fn unread(samples: &[Sample], faults: &[Fault]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let points = samples.iter().map(|sample| (sample.seconds, sample.unread as f64)).collect();
    let line = Line { name: "without a reader".to_owned(), colour: GREY, width: 2, points };
    svg(SIZE, "Shards without a reader", "How many there were.", |area| {
        over_time(area, "shards", &[line], faults)
    })
}

/// When which fault was played.
pub(super) fn faults(faults: &[Fault], end: f64) -> String {
    let kinds: Vec<Chaos> =
        Chaos::all().rev().filter(|kind| faults.iter().any(|fault| fault.kind == *kind)).collect();
    svg(SIZE, "Faults", "When which fault was played.", |area| {
        let rows = i32::try_from(kinds.len()).unwrap_or(i32::MAX).max(1);
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, (0..rows).into_segmented())?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc("seconds")
            .x_label_formatter(&|x| x.to_string())
            .y_labels(kinds.len())
            .y_label_formatter(&|row| match row {
                SegmentValue::CenterOf(row) | SegmentValue::Exact(row) => usize::try_from(*row)
                    .ok()
                    .and_then(|row| kinds.get(row))
                    .map_or_else(String::new, ToString::to_string),
                SegmentValue::Last => String::new(),
            })
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        // Those that take no time are still to be seen.
        let least = end / 250.0;
        let bars = faults.iter().filter_map(|fault| {
            let row = kinds.iter().position(|kind| *kind == fault.kind)?;
            let row = i32::try_from(row).ok()?;
            let (from, to) = (fault.at_seconds, fault.at_seconds + fault.seconds.max(least));
            let corners =
                [(from, SegmentValue::Exact(row)), (to.min(end), SegmentValue::Exact(row.saturating_add(1)))];
            let mut bar = Rectangle::new(corners, RED.mix(0.75).filled());
            bar.set_margin(4, 4, 0, 0);
            Some(bar)
        });
        chart.draw_series(bars)?;
        Ok(())
    })
}

/// What was seen of a stream.
fn of(sample: &Sample, stream: usize) -> StreamSample {
    sample.streams.get(stream).copied().unwrap_or_default()
}

/// What was counted of a stream, per second, averaged.
fn rates(stream: usize, samples: &[Sample], count: fn(&StreamSample) -> u64) -> Vec<(f64, f64)> {
    let count = |sample| count(&of(sample, stream));
    let mut first = 0;
    let mut points = Vec::with_capacity(samples.len());
    for sample in samples {
        while samples[first].seconds < sample.seconds - AVERAGED_SECONDS {
            first += 1;
        }
        let seconds = sample.seconds - samples[first].seconds;
        if seconds > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a picture")]
            let more = count(sample).saturating_sub(count(&samples[first])) as f64;
            points.push((sample.seconds, more / seconds));
        }
    }
    points
}

/// Lines over the time of the run; faults are faint uprights.
fn over_time<'a>(area: &Area<'a>, unit: &str, lines: &[Line], faults: &[Fault]) -> Drawn<'a> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let end = all().map(|(x, _)| *x).fold(1.0, f64::max);
    // With room for the names of the lines.
    let top = all().map(|(_, y)| *y).fold(1.0, f64::max) * 1.25;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.2))
        .x_desc("seconds")
        .y_desc(unit)
        .y_labels(6)
        .x_label_formatter(&|x| x.to_string())
        .y_label_formatter(&|y| y.to_string())
        .label_style(FONT)
        .axis_desc_style(FONT)
        .draw()?;
    chart.draw_series(
        faults
            .iter()
            .map(|fault| PathElement::new([(fault.at_seconds, 0.0), (fault.at_seconds, top)], RED.mix(0.35))),
    )?;
    for Line { name, colour, width, points } in lines {
        let style = colour.stroke_width(*width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(FONT)
        .draw()?;
    Ok(())
}

const TRANSPARENT: RGBAColor = RGBAColor(0, 0, 0, 0.0);
