-- name: shard_claim
-- Raising the epoch fences every earlier holder: its writes carry an epoch that is no longer the shard's. The shards
-- come in order, so that two claims of the same ones cannot wait for each other.
INSERT INTO shard_map AS held (shard, actor, epoch)
SELECT shard, $2, 1 FROM unnest($1::integer[]) AS shard ORDER BY shard
ON CONFLICT (shard) DO UPDATE
SET actor = EXCLUDED.actor, epoch = held.epoch + 1, claimed_at = now(), released = false
RETURNING shard, epoch;

-- name: shard_list
SELECT shard, actor, epoch, claimed_at, released FROM shard_map ORDER BY shard;

-- name: shard_release
-- Only what is still held under the given epoch: a successor that did not wait keeps what it took.
UPDATE shard_map AS held SET released = true
FROM unnest($1::integer[], $2::bigint[]) AS given (shard, epoch)
WHERE held.shard = given.shard AND held.epoch = given.epoch;

-- name: shard_epoch_of_tenant
-- FOR SHARE: a claim of this shard waits until the judgement is stored, and a later writer sees its epoch. A pinned
-- tenant's shard is its pin's and no other.
SELECT epoch FROM shard_map
WHERE shard = $1 AND (
    CASE WHEN $1 < 1000000 THEN NOT EXISTS (SELECT FROM tenant_pins WHERE tenant_id = $2)
         ELSE EXISTS (SELECT FROM tenant_pins WHERE tenant_id = $2 AND shard = $1) END)
FOR SHARE;

-- name: shard_worker_register
INSERT INTO shard_workers AS known (actor, generation) VALUES ($1, 1)
ON CONFLICT (actor) DO UPDATE SET generation = known.generation + 1, started_at = now()
RETURNING generation;

-- name: shard_worker_generation
-- FOR SHARE: a successor registers after this claim, or this claim sees it.
SELECT generation FROM shard_workers WHERE actor = $1 FOR SHARE;

-- name: shard_plan_read
SELECT actors, configured, revision, changed_by, changed_at FROM shard_plan;

-- name: shard_plan_hold
-- FOR SHARE: the plan does not change between reading it and claiming by it.
SELECT actors, configured, revision, changed_by, changed_at FROM shard_plan FOR SHARE;

-- name: shard_plan_configure
-- The settings' word counts when it is new; otherwise what was decided since stays.
INSERT INTO shard_plan AS known (actors, configured, changed_by) VALUES ($1, $1, 'settings')
ON CONFLICT (singleton) DO UPDATE
SET actors = EXCLUDED.actors, configured = EXCLUDED.configured, revision = known.revision + 1,
    changed_by = EXCLUDED.changed_by, changed_at = now()
WHERE known.configured <> EXCLUDED.configured;

-- name: shard_plan_scale
UPDATE shard_plan SET actors = $1, revision = revision + 1, changed_by = $2, changed_at = now()
RETURNING actors, configured, revision, changed_by, changed_at;

-- name: shard_plan_touch
-- A pin changes the plan as well; the row lock orders those who pin.
UPDATE shard_plan SET revision = revision + 1, changed_by = $1, changed_at = now() RETURNING revision;

-- name: tenant_pin_list
SELECT tenant_id, shard, pinned_by, pinned_at FROM tenant_pins ORDER BY shard;

-- name: tenant_pin_insert
INSERT INTO tenant_pins (tenant_id, shard, pinned_by)
SELECT $1, coalesce(max(shard) + 1, 1000000), $2 FROM tenant_pins
ON CONFLICT (tenant_id) DO NOTHING
RETURNING shard;

-- name: tenant_pin_delete
DELETE FROM tenant_pins WHERE tenant_id = $1 RETURNING shard;

-- name: shard_progress
-- Every tenant's mark and head, for the lag of shards.
SELECT heads.tenant_id, heads.last_seq, coalesce(marks.seq, 0) AS mark
FROM journal_heads AS heads LEFT JOIN detector_marks AS marks ON marks.tenant_id = heads.tenant_id;

-- name: tenants_to_tick
-- Tenants that fell silent with windows open, all they sent being judged.
SELECT marks.tenant_id, marks.last_received
FROM detector_marks AS marks JOIN journal_heads AS heads ON heads.tenant_id = marks.tenant_id
WHERE marks.open_windows AND marks.last_received <= $1 AND marks.seq = heads.last_seq;
