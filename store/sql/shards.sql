-- name: shard_claim
-- Raising the epoch fences every earlier holder: its writes carry an epoch that is no longer the shard's. The shards
-- come in order, so that two claims of the same ones cannot wait for each other.
INSERT INTO shard_map AS held (shard, actor, epoch)
SELECT shard, $2, 1 FROM unnest($1::integer[]) AS shard ORDER BY shard
ON CONFLICT (shard) DO UPDATE SET actor = EXCLUDED.actor, epoch = held.epoch + 1, claimed_at = now()
RETURNING shard, epoch;

-- name: shard_list
SELECT shard, actor, epoch, claimed_at FROM shard_map ORDER BY shard;
