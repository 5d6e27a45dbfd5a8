-- Instants are milliseconds since 1970, durations microseconds, money nanodollars, ids made by the program in the
-- order of time. No foreign keys: a fact is booked whether or not what it points to has arrived.

CREATE TABLE requests (
    id BIGINT PRIMARY KEY,
    client TEXT NOT NULL,
    client_address TEXT NOT NULL,
    dialect TEXT NOT NULL,
    path TEXT NOT NULL,
    model_asked TEXT NOT NULL,
    streamed INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    started_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT NOT NULL,
    total_us BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    account TEXT,
    provider TEXT,
    model_served TEXT,
    upstream_dialect TEXT,
    error_class TEXT,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    reported_nanodollars BIGINT,
    usage_source TEXT NOT NULL,
    cost_nanodollars BIGINT,
    exactness TEXT NOT NULL,
    reserved_nanodollars BIGINT NOT NULL,
    price_id BIGINT,
    queue_us BIGINT,
    connect_us BIGINT,
    first_byte_us BIGINT,
    first_event_us BIGINT,
    bytes_received BIGINT NOT NULL,
    bytes_emitted BIGINT NOT NULL,
    upstream_request_id TEXT,
    decision TEXT,
    clamped INTEGER NOT NULL
);
-- summaries of a period, the newest requests, retention
CREATE INDEX requests_ended ON requests (ended_at_ms);

CREATE TABLE attempts (
    request_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    account TEXT NOT NULL,
    model TEXT NOT NULL,
    dialect TEXT NOT NULL,
    started_at_ms BIGINT NOT NULL,
    status INTEGER,
    error_class TEXT,
    error_detail TEXT,
    scope TEXT,
    rest_ms BIGINT,
    connect_us BIGINT,
    first_byte_us BIGINT,
    total_us BIGINT,
    upstream_request_id TEXT,
    bytes_received BIGINT NOT NULL,
    PRIMARY KEY (request_id, number)
);

-- A row stands here from the moment an account is taken until the request has ended; what a crash leaves is booked
-- at the next start.
CREATE TABLE begun (
    id BIGINT PRIMARY KEY,
    client TEXT NOT NULL,
    account TEXT NOT NULL,
    model TEXT NOT NULL,
    dialect TEXT NOT NULL,
    streamed INTEGER NOT NULL,
    started_at_ms BIGINT NOT NULL,
    reserved_nanodollars BIGINT NOT NULL
);

CREATE TABLE events (
    id BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    account TEXT
);
CREATE INDEX events_kind ON events (kind, id);
CREATE INDEX events_at ON events (at_ms);

CREATE TABLE pings (
    id BIGINT PRIMARY KEY,
    account TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    latency_us BIGINT NOT NULL,
    status INTEGER,
    model_count INTEGER,
    error TEXT
);
CREATE INDEX pings_at ON pings (at_ms);

-- The last good list of each account, as JSON: what a restart serves from.
CREATE TABLE model_lists (
    account TEXT PRIMARY KEY,
    models TEXT NOT NULL,
    fetched_at_ms BIGINT NOT NULL
);

-- One row for each price that was ever seen; its id is made from its content, and requests point to it.
CREATE TABLE prices (
    id BIGINT PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    price TEXT NOT NULL,
    first_at_ms BIGINT NOT NULL,
    last_at_ms BIGINT NOT NULL
);

-- What outlives a restart without being a fact of the books, such as rests.
CREATE TABLE state (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
