-- Market capitalisation: the largest coins.
SELECT *
FROM crypto_data.v_market_cap
ORDER BY place;
