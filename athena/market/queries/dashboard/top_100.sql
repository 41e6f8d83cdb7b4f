-- The first hundred by rank.
SELECT *
FROM crypto_data.v_top_100
ORDER BY market_cap_rank, id;
