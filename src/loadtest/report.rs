//! The report of a run: one HTML file that needs nothing else.

use std::fmt::Write;

use super::charts;
use super::verdict::Verdict;
use crate::drawing::escaped;
use crate::figures::{grouped, mebibytes, tenths};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1060px;margin:2em auto;padding:0 1em}\
    h1{font-size:1.5em}h2{font-size:1.15em;margin:2em 0 .4em}.ok{color:#1d7a45}.bad{color:#b3261e}\
    code,pre{font:13px ui-monospace,monospace;background:#f4f4f4;padding:.15em .35em}pre{padding:.8em;overflow-x:auto}\
    table{border-collapse:collapse}td,th{padding:.2em .9em .2em 0;text-align:left;border-bottom:1px solid #ddd;\
    vertical-align:top}td.n,th.n{text-align:right}svg{max-width:100%;height:auto}.scroll{max-height:32em;overflow-y:auto}";

/// The report as HTML. `command`: how to repeat the run.
pub fn html(verdict: &Verdict, command: &str) -> String {
    let mut page = String::with_capacity(256 * 1024);
    write_page(&mut page, verdict, command).expect("writing into a string cannot fail");
    page
}

fn write_page(page: &mut String, verdict: &Verdict, command: &str) -> std::fmt::Result {
    let (class, headline) = match (verdict.exactly_once, &verdict.no_verdict) {
        (Some(true), _) => {
            ("ok", format!("Every one of {} records is in the lake exactly once", grouped(verdict.put)))
        }
        (None, Some(why)) => ("bad", format!("No verdict: {}", escaped(why))),
        _ => ("bad", "The lake is wrong".to_owned()),
    };
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>kinetide load test</title><style>{STYLE}</style></head><body>\
         <h1 class=\"{class}\">{headline}</h1><pre>{}</pre>",
        escaped(command)
    )?;
    figures(page, verdict)?;
    streams(page, verdict)?;
    let names: Vec<&str> = verdict.streams.iter().map(|stream| stream.check.stream.as_str()).collect();
    let end = verdict.samples.last().map_or(1.0, |sample| sample.seconds).max(1.0);
    for (title, svg) in [
        ("Throughput", charts::throughput(&names, &verdict.samples, &verdict.faults)),
        (
            "Lag: age of the oldest record that is not in the lake",
            charts::lag(&names, &verdict.samples, &verdict.faults),
        ),
    ] {
        write!(page, "<h2>{title}</h2>{svg}")?;
    }
    if verdict.worker_command.is_none() {
        let svg = charts::unread(&verdict.samples, &verdict.faults);
        write!(page, "<h2>Shards without a reader</h2>{svg}")?;
    }
    if !verdict.faults.is_empty() {
        write!(page, "<h2>Faults</h2>{}", charts::faults(&verdict.faults, end))?;
        faults(page, verdict)?;
    }
    requests(page, verdict)?;
    workers(page, verdict)?;
    if !verdict.ok() {
        write!(page, "<h2 class=\"bad\">Found</h2><pre>{}</pre>", escaped(&verdict.to_string()))?;
    }
    page.push_str("</body></html>\n");
    Ok(())
}

fn figures(page: &mut String, verdict: &Verdict) -> std::fmt::Result {
    let latency = verdict.latency_ms;
    let cpu: f64 = verdict.workers.iter().map(|worker| worker.cpu_seconds).sum();
    let memory = verdict.workers.iter().map(|worker| worker.rss_max_bytes).max().unwrap_or(0);
    page.push_str("<table>");
    for (name, value) in [
        ("records put", grouped(verdict.put)),
        ("delivered", grouped(verdict.delivered)),
        ("of which dead letters", grouped(verdict.dead_letters)),
        ("missing", grouped(verdict.missing)),
        ("duplicated", grouped(verdict.duplicated)),
        ("other defects", grouped(verdict.lake.other_defects())),
        ("put, records per second", format!("{:.0}", verdict.put_per_second)),
        ("delivered, records per second", format!("{:.0}", verdict.delivered_per_second)),
        (
            "put to lake, p50 / p99 / max",
            format!("{} / {} / {}", seconds(latency.p50), seconds(latency.p99), seconds(latency.max)),
        ),
        ("longest lag", seconds(verdict.lag_ms_max)),
        ("workers killed", grouped(verdict.workers_killed)),
        ("zombies", grouped(verdict.zombies)),
        ("reshardings", grouped(verdict.reshards)),
        ("workers that exited unexpectedly", grouped(verdict.ended_by_themselves.len() as u64)),
        ("CPU time of all workers", format!("{cpu:.1} s")),
        ("peak memory of one worker", mebibytes(memory)),
        ("objects", format!("{}, {}", grouped(verdict.lake.objects), mebibytes(verdict.lake.bytes_out))),
        ("seed", verdict.seed.to_string()),
    ] {
        write!(page, "<tr><td>{name}</td><td class=\"n\">{value}</td></tr>")?;
    }
    page.push_str("</table>");
    Ok(())
}

/// A line for each stream, where there are several.
fn streams(page: &mut String, verdict: &Verdict) -> std::fmt::Result {
    if verdict.streams.len() < 2 {
        return Ok(());
    }
    page.push_str(
        "<h2>Streams</h2><table><tr><th>stream</th><th class=\"n\">put</th><th class=\"n\">dead letters</th>\
         <th class=\"n\">missing</th><th class=\"n\">duplicated</th><th class=\"n\">other defects</th>\
         <th class=\"n\">put to lake, p50 / p99 / max</th><th class=\"n\">longest lag</th><th>exactly once</th></tr>",
    );
    for stream in &verdict.streams {
        let (lake, latency) = (&stream.check.lake, stream.latency_ms);
        write!(page, "<tr><td>{}</td>", escaped(&stream.check.stream))?;
        let counts =
            [lake.records_put, lake.dead_letters, lake.missing, lake.duplicated, lake.other_defects()];
        for count in counts {
            write!(page, "<td class=\"n\">{}</td>", grouped(count))?;
        }
        let (class, proven) = match stream.exactly_once {
            Some(true) => ("ok", "yes"),
            Some(false) => ("bad", "no"),
            None => ("bad", "no verdict"),
        };
        write!(
            page,
            "<td class=\"n\">{} / {} / {}</td><td class=\"n\">{}</td><td class=\"{class}\">{proven}</td></tr>",
            seconds(latency.p50),
            seconds(latency.p99),
            seconds(latency.max),
            seconds(stream.lag_ms_max)
        )?;
    }
    page.push_str("</table>");
    Ok(())
}

fn faults(page: &mut String, verdict: &Verdict) -> std::fmt::Result {
    page.push_str(
        "<div class=\"scroll\"><table><tr><th class=\"n\">at</th><th>fault</th><th>what was done</th>\
         <th class=\"n\">for</th><th class=\"n\">shards without a reader</th><th class=\"n\">longest</th></tr>",
    );
    for fault in &verdict.faults {
        let unread = match fault.shards_unread {
            0 => "<td></td><td></td>".to_owned(),
            shards => {
                format!("<td class=\"n\">{shards}</td><td class=\"n\">{}</td>", seconds(fault.unread_ms_max))
            }
        };
        write!(
            page,
            "<tr><td class=\"n\">{:.1} s</td><td>{}</td><td>{}</td><td class=\"n\">{:.1} s</td>{unread}</tr>",
            fault.at_seconds,
            fault.kind,
            escaped(&fault.what),
            fault.seconds
        )?;
    }
    page.push_str("</table></div>");
    if verdict.worker_command.is_some() {
        return Ok(());
    }
    write!(
        page,
        "<p>A shard has no reader while its lease has no owner, or an owner that is dead, stopped, cut off, or has not \
         renewed within the failover time; sampled five times a second. Longest time without a reader that no fault of \
         the list caused: {}.</p>",
        seconds(verdict.unread_ms_otherwise)
    )
}

fn requests(page: &mut String, verdict: &Verdict) -> std::fmt::Result {
    if verdict.requests.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<h2>Requests of the workers</h2><table><tr><th>service</th><th class=\"n\">requests</th>\
         <th class=\"n\">per million records</th><th class=\"n\">with a fault</th><th>operations</th></tr>",
    );
    for requests in &verdict.requests {
        let operations: Vec<String> = requests
            .operations
            .iter()
            .map(|(operation, count)| format!("{} {}", escaped(operation), grouped(*count)))
            .collect();
        write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            requests.service,
            grouped(requests.requests),
            grouped(requests.per_million_records),
            grouped(requests.struck),
            operations.join(", ")
        )?;
    }
    page.push_str("</table>");
    Ok(())
}

fn workers(page: &mut String, verdict: &Verdict) -> std::fmt::Result {
    page.push_str(
        "<h2>Worker processes</h2><div class=\"scroll\"><table><tr><th>worker</th><th class=\"n\">lived</th>\
         <th class=\"n\">CPU time</th><th class=\"n\">peak memory</th><th>end</th></tr>",
    );
    for worker in &verdict.workers {
        write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{:.0} s</td><td class=\"n\">{:.1} s</td><td class=\"n\">{}</td><td>{}</td></tr>",
            worker.id,
            worker.seconds,
            worker.cpu_seconds,
            mebibytes(worker.rss_max_bytes),
            escaped(&worker.end)
        )?;
    }
    page.push_str("</table></div>");
    Ok(())
}

fn seconds(ms: u64) -> String {
    tenths(ms) + " s"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadtest::chaos::Chaos;
    use crate::loadtest::verdict::{Fault, LatencyMs, Sample, StreamSample, StreamVerdict};
    use crate::trial::StreamCheck;
    use crate::trial::scene::TrialSource;

    fn stream(name: &str, missing: u64) -> StreamVerdict {
        let mut check = StreamCheck { stream: name.to_owned(), ..StreamCheck::default() };
        (check.lake.records_put, check.lake.missing) = (300_000, missing);
        StreamVerdict {
            source: TrialSource::Kinesis,
            check,
            exactly_once: Some(missing == 0),
            no_verdict: None,
            latency_ms: LatencyMs { p50: 1_900, p99: 5_100, max: 9_000 },
            lag_ms_max: 9_000,
        }
    }

    fn verdict(missing: u64) -> Verdict {
        let samples = (0..=60u32).map(|second| Sample {
            seconds: second.into(),
            streams: vec![StreamSample {
                put: 5_000 * u64::from(second),
                delivered: 5_000 * u64::from(second.saturating_sub(3) / 2 * 2),
                lag_ms: 2_500,
            }],
            unread: usize::from(second == 30),
        });
        let faults = Chaos::all().zip(1u32..).map(|(kind, number)| Fault {
            kind,
            at_seconds: f64::from(number * 5),
            seconds: 4.0,
            what: "<worker-1> & more".into(),
            shards_unread: 1,
            unread_ms_max: 3_210,
        });
        Verdict {
            worker_command: None,
            seed: 7,
            put: 300_000,
            delivered: 300_000 - missing,
            dead_letters: 300,
            missing,
            duplicated: 0,
            exactly_once: Some(missing == 0),
            no_verdict: None,
            lake: Default::default(),
            streams: vec![stream("trades", missing)],
            resent: 0,
            put_seconds: 60.0,
            seconds: 64.0,
            put_per_second: 5_000.0,
            delivered_per_second: 4_700.0,
            latency_ms: LatencyMs { p50: 1_900, p99: 5_100, max: 9_000 },
            lag_ms_max: 9_000,
            workers_killed: 1,
            zombies: 1,
            reshards: 1,
            ended_by_themselves: Vec::new(),
            faults: faults.collect(),
            unread_ms_otherwise: 1_200,
            requests: Vec::new(),
            workers: Vec::new(),
            samples: samples.collect(),
        }
    }

    #[test]
    fn a_report_stands_alone_and_shows_every_fault() {
        let page = html(&verdict(0), "kinetide loadtest --seed 7");
        assert_eq!(page.matches("<svg").count(), 4);
        for elsewhere in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere} asks for another file");
        }
        for kind in Chaos::all() {
            assert!(page.contains(&format!("<td>{kind}</td>")), "{kind}");
        }
        assert!(page.contains("&lt;worker-1&gt; &amp; more") && page.contains("3.2 s"));
        assert!(page.contains("exactly once") && page.contains("kinetide loadtest --seed 7"));
        assert!(html(&verdict(1), "").contains("The lake is wrong"));
        let (none, why) = (None, Some("nothing was <put>".to_owned()));
        let nothing = Verdict { exactly_once: none, no_verdict: why, put: 0, delivered: 0, ..verdict(0) };
        assert!(!nothing.ok() && nothing.to_string().contains("NO VERDICT: nothing was <put>. Seed 7."));
        let page = html(&nothing, "");
        assert!(page.contains("No verdict: nothing was &lt;put&gt;") && !page.contains("exactly once"));
        let json = serde_json::to_value(&nothing).unwrap();
        assert!(json["exactly_once"].is_null() && json["no_verdict"] == "nothing was <put>", "{json}");
    }

    #[test]
    fn several_streams_are_shown_each_for_itself() {
        let mut both = verdict(0);
        both.streams.push(stream("trades-2", 7));
        both.streams[1].exactly_once = None;
        for sample in &mut both.samples {
            sample.streams.push(StreamSample { lag_ms: 1_000, ..sample.streams[0] });
        }
        let page = html(&both, "");
        for expected in [
            "<td>trades</td>",
            "<td>trades-2</td><td class=\"n\">300,000</td><td class=\"n\">0</td><td class=\"n\">7</td>",
            "trades-2, in the lake",
            "<td class=\"ok\">yes</td>",
            "<td class=\"bad\">no verdict</td>",
        ] {
            assert!(page.contains(expected), "{expected} is not in the page");
        }
        assert!(!html(&verdict(0), "").contains("<h2>Streams"));
        let text = both.to_string();
        assert!(text.lines().any(|line| line.contains("trades-2 ") && line.contains("300,000")), "{text}");
        assert!(!verdict(0).to_string().contains("trades"));
        let json = serde_json::to_value(&both).unwrap();
        assert_eq!(
            (&json["streams"][1]["stream"], &json["streams"][1]["missing"]),
            (&"trades-2".into(), &7.into())
        );
    }

    #[test]
    fn a_run_without_faults_and_samples_has_a_report() {
        let empty = Verdict { faults: Vec::new(), samples: Vec::new(), ..verdict(0) };
        assert_eq!(html(&empty, "").matches("<svg").count(), 3);
    }
}
