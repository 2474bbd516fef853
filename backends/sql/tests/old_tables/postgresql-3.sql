-- Tables of schema version 3 on PostgreSQL with events, as relevo of that version has created and filled them.
CREATE TABLE relevo_dead (
    ref bigint NOT NULL,
    queue character varying(255) NOT NULL,
    target character varying(255),
    event_id character varying(255),
    source character varying(255),
    name character varying(255),
    urgency smallint DEFAULT 1 NOT NULL,
    ordering_key character varying(255),
    expires double precision,
    attempt integer DEFAULT 1 NOT NULL,
    lost_leases integer DEFAULT 0 NOT NULL,
    enqueued_at bigint,
    headers text,
    progress bytea,
    body bytea,
    reason text,
    error text,
    died_at bigint
);

CREATE SEQUENCE relevo_dead_ref_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE relevo_dead_ref_seq OWNED BY relevo_dead.ref;

CREATE TABLE relevo_event (
    seq bigint NOT NULL,
    state smallint DEFAULT 0 NOT NULL,
    ready_at bigint DEFAULT 0 NOT NULL,
    lease_until bigint,
    token bigint,
    begun text,
    deaths text,
    queue character varying(255) NOT NULL,
    target character varying(255),
    event_id character varying(255),
    source character varying(255),
    name character varying(255),
    urgency smallint DEFAULT 1 NOT NULL,
    ordering_key character varying(255),
    expires double precision,
    attempt integer DEFAULT 1 NOT NULL,
    lost_leases integer DEFAULT 0 NOT NULL,
    enqueued_at bigint,
    headers text,
    progress bytea,
    body bytea,
    CONSTRAINT relevo_event_attempt_is_count CHECK (((attempt IS NOT NULL) AND (attempt >= 1))),
    CONSTRAINT relevo_event_lease_is_whole CHECK (
CASE state
    WHEN 1 THEN ((lease_until IS NOT NULL) AND (token IS NOT NULL))
    ELSE ((lease_until IS NULL) AND (token IS NULL))
END),
    CONSTRAINT relevo_event_lost_leases_is_count CHECK (((lost_leases IS NOT NULL) AND (lost_leases >= 0))),
    CONSTRAINT relevo_event_state_is_known CHECK ((state = ANY (ARRAY[0, 1, 2, 3]))),
    CONSTRAINT relevo_event_waiting_has_line CHECK (((state <> 3) OR ((ordering_key IS NOT NULL) AND (target IS NOT NULL))))
);

CREATE SEQUENCE relevo_event_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE relevo_event_seq_seq OWNED BY relevo_event.seq;

CREATE TABLE relevo_lock (
    name character varying(255) NOT NULL,
    holder character varying(255) NOT NULL,
    receipt character varying(64) NOT NULL,
    until bigint NOT NULL
);

CREATE TABLE relevo_meta (
    key character varying(64) NOT NULL,
    value character varying(255) NOT NULL
);

CREATE TABLE relevo_worker (
    worker character varying(64) NOT NULL,
    beats bigint NOT NULL,
    seen_at bigint NOT NULL
);

ALTER TABLE ONLY relevo_dead ALTER COLUMN ref SET DEFAULT nextval('relevo_dead_ref_seq'::regclass);

ALTER TABLE ONLY relevo_event ALTER COLUMN seq SET DEFAULT nextval('relevo_event_seq_seq'::regclass);

INSERT INTO relevo_dead VALUES (1, 'default', 'default', 'event-2', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000000000000, NULL, '{"v":1,"listeners":{"steady":["done",1,0.0,"",""],"flaky":["dead",1,0.0,"gave-up","GiveUp: no such image"]},"raised":{"flaky":["GiveUp","Traceback (most recent call last):\\n  File \\"/srv/shop/lib/relevo/_worker/caller.py\\", line 244, in _run\\n    result = listener.function(event) if call is None else listener.function(event, call)\\n             ^^^^^^^^^^^^^^^^^^^^^^^^\\n  File \\"/srv/shop/listeners.py\\", line 19, in flaky\\n    if event[\\"n\\"] == 6: raise relevo.GiveUp(\\"no such image\\")\\n                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\\nrelevo.errors.GiveUp: no such image"]}}', '{"id":"event-2","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:20Z","datacontenttype":"application/json","data":{"n":6}}', 'gave-up', 'flaky: gave-up after 1 run: GiveUp: no such image
Traceback (most recent call last):
  File "/srv/shop/lib/relevo/_worker/caller.py", line 244, in _run
    result = listener.function(event) if call is None else listener.function(event, call)
             ^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/listeners.py", line 19, in flaky
    if event["n"] == 6: raise relevo.GiveUp("no such image")
                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
relevo.errors.GiveUp: no such image', 1700000000000000);

INSERT INTO relevo_event VALUES (1, 2, 1700000630000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-1', 'shop', 'image.created', 1, NULL, NULL, 2, 0, 1700000000000000, NULL, '{"v":1,"listeners":{"steady":["done",1,0.0,"",""],"flaky":["due",1,1700000630.0,"","OSError: the disk is away"]}}', '{"id":"event-1","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:20Z","datacontenttype":"application/json","data":{"n":5}}');
INSERT INTO relevo_event VALUES (3, 1, 1700000001000000, 1700000061000000, 4590544994103739042, '["host/1",["host/0"],"steady",false]', '["host/0"]', 'default', 'default', 'event-3', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-3","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":10}}');
INSERT INTO relevo_event VALUES (4, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-4', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-4","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":1}}');
INSERT INTO relevo_event VALUES (5, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-5', 'shop', 'image.created', 0, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-5","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":2}}');
INSERT INTO relevo_event VALUES (6, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-6', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-6","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":3}}');
INSERT INTO relevo_event VALUES (7, 2, 1700003601000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-7', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-7","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":4}}');
INSERT INTO relevo_event VALUES (8, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-8', 'shop', 'image.created', 1, 'k', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-8","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":7}}');
INSERT INTO relevo_event VALUES (9, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-9', 'shop', 'image.created', 1, 'k', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-9","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":8}}');
INSERT INTO relevo_event VALUES (10, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-10', 'shop', 'image.created', 1, 'k', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-10","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":9}}');
INSERT INTO relevo_event VALUES (11, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-11', 'shop', 'image.created', 1, NULL, 3276800001, 1, 0, 1700000001000000, NULL, '', '{"id":"event-11","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":11}}');
INSERT INTO relevo_event VALUES (12, 2, 1700007201000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-12', 'shop', 'image.created', 1, 'later', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-12","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":12}}');
INSERT INTO relevo_event VALUES (13, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-13', 'shop', 'image.created', 1, 'later', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-13","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":13}}');

INSERT INTO relevo_lock VALUES ('drain', 'host/1', '2a738116bc3444aebb64aa71619e72bf', 1700000031000000);

INSERT INTO relevo_meta VALUES ('schema', '3');
INSERT INTO relevo_meta VALUES ('database', '89164855d5094ef59ac7286fed177fa1');

SELECT pg_catalog.setval('relevo_dead_ref_seq', 1, true);

SELECT pg_catalog.setval('relevo_event_seq_seq', 13, true);

ALTER TABLE ONLY relevo_dead
    ADD CONSTRAINT relevo_dead_pkey PRIMARY KEY (ref);

ALTER TABLE ONLY relevo_event
    ADD CONSTRAINT relevo_event_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY relevo_lock
    ADD CONSTRAINT relevo_lock_pkey PRIMARY KEY (name);

ALTER TABLE ONLY relevo_meta
    ADD CONSTRAINT relevo_meta_pkey PRIMARY KEY (key);

ALTER TABLE ONLY relevo_worker
    ADD CONSTRAINT relevo_worker_pkey PRIMARY KEY (worker);

CREATE INDEX relevo_dead_identity ON relevo_dead USING btree (event_id, source, target, queue);

CREATE INDEX relevo_dead_queue ON relevo_dead USING btree (queue, ref);

CREATE UNIQUE INDEX relevo_event_identity ON relevo_event USING btree (event_id, source, target, queue);

CREATE INDEX relevo_event_leased ON relevo_event USING btree (queue, lease_until) WHERE (state = 1);

CREATE INDEX relevo_event_ready ON relevo_event USING btree (queue, urgency, ready_at, seq, enqueued_at) WHERE (state = 0);

CREATE INDEX relevo_event_scheduled ON relevo_event USING btree (queue, ready_at) WHERE (state = 2);

CREATE INDEX relevo_event_stray ON relevo_event USING btree (queue) WHERE (
CASE
    WHEN (state = ANY (ARRAY[0, 2])) THEN 0
    WHEN ((state = 1) AND (lease_until IS NOT NULL)) THEN 0
    WHEN ((state = 3) AND (ordering_key IS NOT NULL) AND (target IS NOT NULL)) THEN 0
    ELSE 1
END = 1);

CREATE INDEX relevo_event_turn ON relevo_event USING btree (queue, target, ordering_key, state, seq) WHERE (ordering_key IS NOT NULL);

CREATE INDEX relevo_event_waiting ON relevo_event USING btree (queue, ready_at, enqueued_at) WHERE (state = 3);
