-- Tables of schema version 3 on SQLite with events, as relevo of that version has created and filled them.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE relevo_dead (
	ref INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	queue VARCHAR(255) NOT NULL,
	target VARCHAR(255),
	event_id VARCHAR(255),
	source VARCHAR(255),
	name VARCHAR(255),
	urgency SMALLINT DEFAULT 1 NOT NULL,
	ordering_key VARCHAR(255),
	expires DOUBLE,
	attempt INTEGER DEFAULT 1 NOT NULL,
	lost_leases INTEGER DEFAULT 0 NOT NULL,
	enqueued_at BIGINT,
	headers TEXT,
	progress BLOB,
	body BLOB,
	reason TEXT,
	error TEXT,
	died_at BIGINT
);
INSERT INTO relevo_dead VALUES(1,'default','default','event-2','shop','image.created',1,NULL,NULL,1,0,1700000000000000,NULL,CAST('{"v":1,"listeners":{"steady":["done",1,0.0,"",""],"flaky":["dead",1,0.0,"gave-up","GiveUp: no such image"]},"raised":{"flaky":["GiveUp","Traceback (most recent call last):\n  File \"/srv/shop/lib/relevo/_worker/caller.py\", line 244, in _run\n    result = listener.function(event) if call is None else listener.function(event, call)\n             ^^^^^^^^^^^^^^^^^^^^^^^^\n  File \"/srv/shop/listeners.py\", line 19, in flaky\n    if event[\"n\"] == 6: raise relevo.GiveUp(\"no such image\")\n                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\nrelevo.errors.GiveUp: no such image"]}}' AS BLOB),CAST('{"id":"event-2","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:20Z","datacontenttype":"application/json","data":{"n":6}}' AS BLOB),'gave-up',replace('flaky: gave-up after 1 run: GiveUp: no such image\nTraceback (most recent call last):\n  File "/srv/shop/lib/relevo/_worker/caller.py", line 244, in _run\n    result = listener.function(event) if call is None else listener.function(event, call)\n             ^^^^^^^^^^^^^^^^^^^^^^^^\n  File "/srv/shop/listeners.py", line 19, in flaky\n    if event["n"] == 6: raise relevo.GiveUp("no such image")\n                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\nrelevo.errors.GiveUp: no such image','\n',char(10)),1700000000000000);
CREATE TABLE relevo_event (
	seq INTEGER NOT NULL,
	state SMALLINT DEFAULT 0 NOT NULL,
	ready_at BIGINT DEFAULT 0 NOT NULL,
	lease_until BIGINT,
	token BIGINT,
	begun TEXT,
	deaths TEXT,
	queue VARCHAR(255) NOT NULL,
	target VARCHAR(255),
	event_id VARCHAR(255),
	source VARCHAR(255),
	name VARCHAR(255),
	urgency SMALLINT DEFAULT 1 NOT NULL,
	ordering_key VARCHAR(255),
	expires DOUBLE,
	attempt INTEGER DEFAULT 1 NOT NULL,
	lost_leases INTEGER DEFAULT 0 NOT NULL,
	enqueued_at BIGINT,
	headers TEXT,
	progress BLOB,
	body BLOB,
	PRIMARY KEY (seq),
	CONSTRAINT relevo_event_queue_is_text CHECK (typeof(queue) = 'text'),
	CONSTRAINT relevo_event_state_is_known CHECK (state IN (0, 1, 2, 3)),
	CONSTRAINT relevo_event_ready_at_is_integer CHECK (typeof(ready_at) = 'integer'),
	CONSTRAINT relevo_event_lease_is_whole CHECK (CASE state WHEN 1 THEN typeof(lease_until) = 'integer' AND typeof(token) = 'integer' ELSE lease_until IS NULL AND token IS NULL END),
	CONSTRAINT relevo_event_waiting_has_line CHECK (state <> 3 OR (ordering_key IS NOT NULL AND target IS NOT NULL)),
	CONSTRAINT relevo_event_attempt_is_count CHECK (typeof(attempt) = 'integer' AND attempt >= 1),
	CONSTRAINT relevo_event_lost_leases_is_count CHECK (typeof(lost_leases) = 'integer' AND lost_leases >= 0)
);
INSERT INTO relevo_event VALUES(1,2,1700000630000000,NULL,NULL,NULL,NULL,'default','default','event-1','shop','image.created',1,NULL,NULL,2,0,1700000000000000,NULL,CAST('{"v":1,"listeners":{"steady":["done",1,0.0,"",""],"flaky":["due",1,1700000630.0,"","OSError: the disk is away"]}}' AS BLOB),CAST('{"id":"event-1","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:20Z","datacontenttype":"application/json","data":{"n":5}}' AS BLOB));
INSERT INTO relevo_event VALUES(2,1,1700000001000000,1700000061000000,474049655173300841,'["host/1",["host/0"],"steady",false]','["host/0"]','default','default','event-3','shop','image.created',1,NULL,NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-3","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":10}}' AS BLOB));
INSERT INTO relevo_event VALUES(3,0,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-4','shop','image.created',1,NULL,NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-4","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":1}}' AS BLOB));
INSERT INTO relevo_event VALUES(4,0,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-5','shop','image.created',0,NULL,NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-5","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":2}}' AS BLOB));
INSERT INTO relevo_event VALUES(5,0,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-6','shop','image.created',1,NULL,NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-6","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":3}}' AS BLOB));
INSERT INTO relevo_event VALUES(6,2,1700003601000000,NULL,NULL,NULL,NULL,'default','default','event-7','shop','image.created',1,NULL,NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-7","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":4}}' AS BLOB));
INSERT INTO relevo_event VALUES(7,0,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-8','shop','image.created',1,'k',NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-8","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":7}}' AS BLOB));
INSERT INTO relevo_event VALUES(8,3,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-9','shop','image.created',1,'k',NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-9","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":8}}' AS BLOB));
INSERT INTO relevo_event VALUES(9,3,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-10','shop','image.created',1,'k',NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-10","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":9}}' AS BLOB));
INSERT INTO relevo_event VALUES(10,0,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-11','shop','image.created',1,NULL,3276800001.0,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-11","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":11}}' AS BLOB));
INSERT INTO relevo_event VALUES(11,2,1700007201000000,NULL,NULL,NULL,NULL,'default','default','event-12','shop','image.created',1,'later',NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-12","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":12}}' AS BLOB));
INSERT INTO relevo_event VALUES(12,3,1700000001000000,NULL,NULL,NULL,NULL,'default','default','event-13','shop','image.created',1,'later',NULL,1,0,1700000001000000,NULL,X'',CAST('{"id":"event-13","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":13}}' AS BLOB));
CREATE TABLE relevo_lock (
	name VARCHAR(255) NOT NULL,
	holder VARCHAR(255) NOT NULL,
	receipt VARCHAR(64) NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (name)
);
INSERT INTO relevo_lock VALUES('drain','host/1','d3111c3c5d814d9fa31c2139ba839327',1700000031000000);
CREATE TABLE relevo_meta (
	"key" VARCHAR(64) NOT NULL,
	value VARCHAR(255) NOT NULL,
	PRIMARY KEY ("key")
);
INSERT INTO relevo_meta VALUES('schema','3');
INSERT INTO relevo_meta VALUES('database','ed50f34dc0264754a87bb9bfa475d18c');
CREATE TABLE relevo_worker (
	worker VARCHAR(64) NOT NULL,
	beats BIGINT NOT NULL,
	seen_at BIGINT NOT NULL,
	PRIMARY KEY (worker)
);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('relevo_dead',1);
CREATE INDEX relevo_dead_identity ON relevo_dead (event_id, source, target, queue);
CREATE INDEX relevo_dead_queue ON relevo_dead (queue, ref);
CREATE UNIQUE INDEX relevo_event_identity ON relevo_event (event_id, source, target, queue);
CREATE INDEX relevo_event_leased ON relevo_event (queue, lease_until) WHERE state = 1;
CREATE INDEX relevo_event_line ON relevo_event (queue, target, ordering_key, seq) WHERE ordering_key IS NOT NULL;
CREATE INDEX relevo_event_ready ON relevo_event (queue, urgency, ready_at, seq, enqueued_at) WHERE state = 0;
CREATE INDEX relevo_event_scheduled ON relevo_event (queue, ready_at) WHERE state = 2;
CREATE INDEX relevo_event_stray ON relevo_event (CASE typeof(queue) WHEN 'text' THEN queue ELSE '' END) WHERE (queue < x'' AND CASE state WHEN 0 THEN ready_at <= 9223372036854775807 WHEN 1 THEN lease_until <= 9223372036854775807 WHEN 2 THEN ready_at <= 9223372036854775807 WHEN 3 THEN ordering_key IS NOT NULL AND target IS NOT NULL END) IS NOT TRUE;
CREATE INDEX relevo_event_waiting ON relevo_event (queue, ready_at, enqueued_at) WHERE state = 3;
COMMIT;
