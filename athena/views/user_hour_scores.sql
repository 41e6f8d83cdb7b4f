-- How unusual an hour is for a user and pair: robust z-scores of its largest trade and of its number of trades, a row each.
-- From 4, or down from -4, it is far from what is usual there. docs/ANOMALIES.md explains it, and how often it is right.
CREATE OR REPLACE VIEW crypto.user_hour_scores AS
SELECT
  user_id,
  trading_pair,
  hour_bucket,
  measure,
  measured,
  if(measure = 'trades', median * median, exp(median)) AS usual,
  hours,
  if(hours >= 24, 0.6745 * (level - median) / spread) AS score,
  if(hours < 24, 'few_hours') AS not_scored
FROM (
  -- The spread: the median distance from the median, but no less than what means nothing.
  SELECT
    *,
    greatest(
      avg(if(2 * place BETWEEN hours AND hours + 2, distance)) OVER (PARTITION BY user_id, trading_pair, measure),
      if(measure = 'trades', 0.34, 0.05)
    ) AS spread
  FROM (
    SELECT
      *,
      abs(level - median) AS distance,
      row_number() OVER (
        PARTITION BY user_id, trading_pair, measure ORDER BY abs(level - median), hour_bucket
      ) AS place
    FROM (
      -- The median: the one in the middle, or the mean of the two there.
      SELECT
        *,
        avg(if(2 * place_by_level BETWEEN hours AND hours + 2, level)) OVER (
          PARTITION BY user_id, trading_pair, measure
        ) AS median
      FROM (
        SELECT
          *,
          count(*) OVER (PARTITION BY user_id, trading_pair, measure) AS hours,
          row_number() OVER (
            PARTITION BY user_id, trading_pair, measure ORDER BY level, hour_bucket
          ) AS place_by_level
        FROM (
          -- On a scale where a step means the same everywhere: twice the value, or a count's own scatter.
          SELECT
            user_id,
            trading_pair,
            hour_bucket,
            measure,
            if(measure = 'trades', CAST(trades AS double), CAST(largest_trade AS double)) AS measured,
            if(measure = 'trades', sqrt(CAST(trades AS double)), ln(CAST(largest_trade AS double))) AS level
          FROM crypto.user_hours
          CROSS JOIN (VALUES 'largest_trade', 'trades') AS measures (measure)
        )
      )
    )
  )
);
