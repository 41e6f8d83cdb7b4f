-- Hours in which a user's largest trade of a pair, or the number of them, is far from usual, the most unusual first; then hours
-- that have no score.
SELECT
  user_id,
  trading_pair,
  hour_bucket,
  measure,
  measured,
  usual,
  hours,
  score,
  not_scored
FROM crypto.user_hour_scores
WHERE abs(score) >= 4 OR score IS NULL
ORDER BY abs(score) DESC NULLS LAST, hour_bucket DESC, user_id, trading_pair, measure
LIMIT 100;
