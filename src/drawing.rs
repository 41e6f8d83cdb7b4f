//! What the HTML reports share: pictures as SVG, and text that is safe in a page.

use plotters::coord::Shift;
use plotters::prelude::*;

/// What drawing gives.
pub(crate) type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Where it is drawn.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One picture. `title` and `about` are for those who do not see it.
pub(crate) fn svg(
    size: (u32, u32),
    title: &str,
    about: &str,
    draw: impl for<'a> FnOnce(&Area<'a>) -> Drawn<'a>,
) -> String {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = draw(&area).and_then(|()| area.present());
        drawn.expect("drawing into a string cannot fail");
    }
    let (open, rest) = text.split_once('>').expect("it starts with a tag");
    format!("{open} role=\"img\"><title>{}</title><desc>{}</desc>{rest}", escaped(title), escaped(about))
}

/// Text from outside as text of a page.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_says_what_it_is_and_no_text_leaves_its_place() {
        let picture = svg((10, 10), "<b>", "a & \"b\"", |area| {
            area.draw(&Text::new("</svg><script>", (1, 1), ("sans-serif", 9)))
        });
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
        assert!(picture.contains("role=\"img\"><title>&lt;b&gt;</title><desc>a &amp; &quot;b&quot;</desc>"));
        assert!(!picture.contains("<script") && picture.matches("</svg>").count() == 1, "{picture}");
    }
}
