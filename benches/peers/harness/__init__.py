"""What the measurements of this folder share: servers, counting, the lake's judge, and what processes use."""
