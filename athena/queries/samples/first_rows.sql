select * from crypto.processed_crypto_txn limit 10
