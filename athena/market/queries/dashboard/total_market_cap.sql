-- The value of all coins together.
SELECT total_market_cap
FROM crypto_data.v_total_market_cap;
