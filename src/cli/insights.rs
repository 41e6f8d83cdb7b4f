//! `kinetide insights`.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use clap::Args;

use super::Exit;
use super::dead_letters::moment;
use super::wait_line::WaitLine;
use crate::clock::wall_clock_us;
use crate::config::{BadSetting, LakeRoleArgs, byte_size, endpoint, folder, lake};
use crate::deliver::{LakeUrl, ObjectSink, S3Settings, open_existing};
use crate::figures::grouped;
use crate::insights::{
    Coverage, Figures, Insights, PriceScope, Prices, ReadError, Scope, html, read, read_prices,
};
use crate::terminal::{print, say_error};

const LAKE: &str = "Lake";

/// Where the page goes when nobody says it.
const PAGE: &str = "insights.html";

/// Flags of `kinetide insights`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads the rows that the transform crypto-transactions landed, takes the newest state of each trade, and \
    writes a dashboard of those that are valid and not deleted: one HTML file with charts and tables that needs no other \
    file and no network. An existing file is replaced. Counts and sums are exact, and the same as those of the queries in \
    athena/. With --since or --until it is the newest state among the changes of that time. TIME is a time like \
    2026-01-15T09:30:00Z, or an age like 24h.\n\n\
    Where the lake has market prices of CoinGecko (kinetide snapshot, or the transform market-snapshot) the same page shows \
    those of the last eight days too: the figures of the views in athena/market/. Then --since and --until also say which \
    snapshots count. A lake of prices alone gives a page of prices alone.\n\n\
    Objects and lines that cannot be read are counted and named, on the page and on stderr; of a broken object nothing \
    counts. Nothing in the lake is changed.\n\n\
    Memory grows with the number of trades, about 400 bytes for each, and not with that of objects or rows.\n\n\
    docs/INSIGHTS.md explains each chart.\n\n\
    Exit code: 0 when done, 1 when there was no trade and no price or something could not be read (the page is written all the same) or \
    on failure, 2 for wrong settings.\n\nExamples:\n  \
    kinetide insights --lake ./lake\n  \
    kinetide insights --lake s3://my-lake/crypto --since 24h --out today.html\n  \
    kinetide insights --lake s3://my-lake/crypto --json | jq .figures.trade_fee"
)]
pub struct InsightsArgs {
    /// The lake to read: s3://bucket/prefix, file:///folder, or a folder like /folder or ./folder.
    #[arg(long, help_heading = LAKE, env = "KINETIDE_LAKE", value_name = "URL")]
    lake: Option<String>,

    /// Folder in the lake for rows.
    #[arg(long, help_heading = LAKE, env = "KINETIDE_LANDING", value_name = "FOLDER",
          default_value = "landing/transactions")]
    landing: String,

    /// Folder in the lake for market prices of CoinGecko.
    #[arg(long, help_heading = LAKE, value_name = "FOLDER", default_value = "market/coingecko/processed")]
    prices: String,

    /// AWS region [default: from the environment].
    #[arg(long, help_heading = LAKE, env = "KINETIDE_REGION", value_name = "REGION")]
    region: Option<String>,

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, help_heading = LAKE, env = "KINETIDE_S3_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,

    #[command(flatten)]
    role: LakeRoleArgs,

    /// Only changes of this time or later.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,

    /// Only changes of this time or earlier.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<i64>,

    /// Memory for the newest states of all trades; beyond it the command fails.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = byte_size)]
    memory: ByteSize,

    /// HTML file to write [default: insights.html; none with --json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print the figures as one JSON object. Sums are strings, so that no digit is lost.
    #[arg(long)]
    json: bool,
}

/// Where to read, what, and where the page goes.
struct Job {
    lake: String,
    prices_lake: String,
    sink: ObjectSink,
    scope: Scope,
    prices: PriceScope,
    out: Option<PathBuf>,
}

/// Reads a lake and writes its dashboard.
///
/// # Errors
/// When the lake cannot be listed, there are too many trades, or the page cannot be written.
pub async fn run(args: InsightsArgs) -> anyhow::Result<Exit> {
    let (json, memory) = (args.json, args.memory);
    let job = match settings(args).await {
        Ok(job) => job,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let mut progress = WaitLine::default();
    let Job { lake, prices_lake, sink, scope, prices, out } = job;
    let mut say = |objects, rows| {
        progress.say(&format!("{} rows in {} objects …", grouped(rows), grouped(objects)));
    };
    // A folder of prices has no trades.
    let trades = if scope.landing == prices.folder {
        Ok((Coverage::default(), Figures::default()))
    } else {
        read(sink.store(), sink.prefix(), &scope, &mut say).await
    };
    let priced = match &trades {
        Ok(_) => read_prices(sink.store(), sink.prefix(), &prices, &mut say).await,
        Err(_) => Ok(None),
    };
    progress.done();
    let (coverage, figures) = trades.map_err(|error| match error {
        ReadError::Full(full) => anyhow!(
            "{} trades need more than --memory {memory}: raise it, choose a shorter time with --since, or use the queries \
             of athena/",
            grouped(full.trades as u64)
        ),
        error => anyhow!(error).context(format!("could not read {lake}")),
    })?;
    let priced = priced.with_context(|| format!("could not read {prices_lake}"))?;
    let prices = priced.map(|(coverage, figures)| Prices { lake: prices_lake, coverage, figures });
    let insights = Insights::new(lake, coverage, figures, prices);
    if let Some(out) = &out {
        std::fs::write(out, html(&insights)).with_context(|| format!("could not write {}", out.display()))?;
    }
    if json {
        print(serde_json::to_string(&insights)?)?;
    } else if let Some(out) = &out {
        print(format!("{} in {}", found(&insights), out.display()))?;
    }
    Ok(if whole(&insights) { Exit::Done } else { Exit::Failed })
}

/// What the page is about.
fn found(insights: &Insights) -> String {
    let trades = insights.has_trades_part().then(|| format!("{} trades", grouped(insights.figures.trades)));
    let coins =
        insights.prices.as_ref().map(|prices| format!("prices of {} coins", grouped(prices.figures.coins)));
    trades.into_iter().chain(coins).collect::<Vec<_>>().join(" and ")
}

/// Says what is missing; false if anything is.
fn whole(insights: &Insights) -> bool {
    let mut whole = true;
    let mut missing = |problem: &dyn std::fmt::Display| {
        say_error(problem);
        whole = false;
    };
    insights.coverage.unreadable.lines().iter().for_each(|line| missing(line));
    if insights.has_trades_part() && insights.figures.trades == 0 {
        missing(&format!("no trades in {}: check --lake, --landing, --since and --until", insights.lake));
    }
    if let Some(Prices { lake, coverage, figures }) = &insights.prices {
        coverage.unreadable.lines().iter().for_each(|line| missing(line));
        if coverage.values_unreadable > 0 {
            missing(&format!(
                "{} values of prices in {lake} are no numbers that fit, and count as missing: the query \
                 operators/unreadable_values of athena/market/ shows them",
                grouped(coverage.values_unreadable)
            ));
        }
        if figures.coins == 0 {
            missing(&format!("no prices in {lake}: check --prices, --since and --until"));
        }
    }
    whole
}

async fn settings(args: InsightsArgs) -> Result<Job, String> {
    let text = |problem: BadSetting| problem.to_string();
    let url = args.lake.ok_or("no lake: set --lake")?;
    let url: LakeUrl = lake(&url).map_err(text)?;
    let landing = folder("landing", &args.landing).map_err(text)?.to_owned();
    let prices = folder("prices", &args.prices).map_err(text)?.to_owned();
    let s3_endpoint = endpoint("s3-endpoint", args.s3_endpoint).map_err(text)?;
    let (since_us, until_us) = (args.since.unwrap_or(i64::MIN), args.until.unwrap_or(i64::MAX));
    if since_us > until_us {
        return Err("--since is later than --until".to_owned());
    }
    let out = args.out.or_else(|| (!args.json).then(|| PathBuf::from(PAGE)));
    if let Some(parent) = out.as_ref().and_then(|out| out.parent())
        && !parent.as_os_str().is_empty()
        && !parent.is_dir()
    {
        return Err(format!("--out: there is no folder {}", parent.display()));
    }
    let memory = usize::try_from(args.memory.as_u64()).unwrap_or(usize::MAX);
    let settings = S3Settings { role: args.role.checked(&url, None).map_err(text)?, ..S3Settings::default() };
    let sink = open_existing(&url, args.region.as_deref(), s3_endpoint.as_deref(), &settings)
        .await
        .map_err(|error| format!("--lake {:?}: {error}", url.to_string()))?;
    let [lake, prices_lake] = [&landing, &prices].map(|folder| format!("{}/{folder}", url.place()));
    let scope = Scope { landing, since_us, until_us, memory };
    let prices = PriceScope { folder: prices, since_us, until_us, now_us: wall_clock_us() };
    Ok(Job { lake, prices_lake, sink, scope, prices, out })
}
