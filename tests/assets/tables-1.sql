CREATE TABLE public._agent_store_log (
    stream text NOT NULL COLLATE pg_catalog."C",
    writer text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    prev_hash bytea,
    content_hash bytea NOT NULL,
    payload bytea NOT NULL
);
CREATE TABLE public._agent_store_meta (
    key text NOT NULL COLLATE pg_catalog."C",
    ival bigint NOT NULL
);
CREATE TABLE public.dgent_checkpoints (
    stream text NOT NULL COLLATE pg_catalog."C",
    writer text NOT NULL COLLATE pg_catalog."C",
    format text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    signer text NOT NULL COLLATE pg_catalog."C",
    hash bytea NOT NULL,
    public_key bytea NOT NULL,
    signature bytea NOT NULL
);
CREATE TABLE public.dgent_datums (
    namespace text NOT NULL COLLATE pg_catalog."C",
    id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    seq bigint NOT NULL,
    live boolean NOT NULL,
    created_at double precision NOT NULL,
    stored_at double precision NOT NULL,
    expires_at double precision,
    parent text COLLATE pg_catalog."C",
    metadata text NOT NULL COLLATE pg_catalog."C",
    content bytea,
    digest bytea NOT NULL
);
CREATE TABLE public.dgent_heads (
    namespace text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    stored_at double precision NOT NULL
);
CREATE TABLE public.dgent_log (
    stream text NOT NULL COLLATE pg_catalog."C",
    writer text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    prev_hash bytea,
    content_hash bytea NOT NULL,
    payload bytea NOT NULL
);
CREATE TABLE public.dgent_meta (
    key text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.dgent_outbox (
    namespace text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    datum text COLLATE pg_catalog."C",
    ttl double precision,
    at double precision NOT NULL,
    refusal text COLLATE pg_catalog."C"
);
CREATE TABLE public.dgent_terms (
    namespace text NOT NULL COLLATE pg_catalog."C",
    term bigint NOT NULL,
    created_at double precision NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL
);
INSERT INTO public._agent_store_log VALUES ('audit', 'ada', 1, NULL, '\x7b426166dfd6b62f31ca10670934f44622da9b7aaacaf6e2d354ab4b40f4791b', '\x6175646974206f66206164613a2030');
INSERT INTO public._agent_store_log VALUES ('audit', 'ada', 2, '\x7b426166dfd6b62f31ca10670934f44622da9b7aaacaf6e2d354ab4b40f4791b', '\x0071bdd918e18411305e6e6c0b0ef90b456ae4618c53414eb85c357cbe3dfded', '\x6175646974206f66206164613a2031');
INSERT INTO public._agent_store_log VALUES ('audit', 'ada', 3, '\x0071bdd918e18411305e6e6c0b0ef90b456ae4618c53414eb85c357cbe3dfded', '\xead16cc6f0bed6eb6cf5831295cbc18f6645e9be074d7828f035b1d7ed519b03', '\x6175646974206f66206164613a2032');
INSERT INTO public._agent_store_log VALUES ('audit', 'ada', 4, '\xead16cc6f0bed6eb6cf5831295cbc18f6645e9be074d7828f035b1d7ed519b03', '\x876b2cbecb3ef6db285cdf3bb64efd6eb9f1720253f5f00d0588ffd155346f85', '\x6175646974206f66206164613a2033');
INSERT INTO public._agent_store_log VALUES ('audit', 'ada', 5, '\x876b2cbecb3ef6db285cdf3bb64efd6eb9f1720253f5f00d0588ffd155346f85', '\x9ef1ea6e1e6ffcdd029cbb40e4adddcd59fbf7f38bba1cfc1bb8b2756335fd02', '\x6175646974206f66206164613a2034');
INSERT INTO public._agent_store_log VALUES ('audit', 'grace', 1, NULL, '\x240c7cfd8ead0d622d0f20589be14264febce96dcf6f312c87459fe7cb39d630', '\x6175646974206f662067726163653a2030');
INSERT INTO public._agent_store_log VALUES ('audit', 'grace', 2, '\x240c7cfd8ead0d622d0f20589be14264febce96dcf6f312c87459fe7cb39d630', '\x634ba8c489b7c34ba4e75efb032b2cc5a30dc9a1f0eb440a10a4917b8a2df41d', '\x6175646974206f662067726163653a2031');
INSERT INTO public._agent_store_log VALUES ('audit', 'grace', 3, '\x634ba8c489b7c34ba4e75efb032b2cc5a30dc9a1f0eb440a10a4917b8a2df41d', '\x8cd985bb8e90f068491e2ae9ff3b1424ec6f95c9246623070270b9c5319ae539', '\x6175646974206f662067726163653a2032');
INSERT INTO public._agent_store_log VALUES ('audit', 'grace', 4, '\x8cd985bb8e90f068491e2ae9ff3b1424ec6f95c9246623070270b9c5319ae539', '\x70a006cda48a927cbcbfad39f4d77d21ce74d327167822c9509782b36fb8b3f6', '\x6175646974206f662067726163653a2033');
INSERT INTO public._agent_store_log VALUES ('audit', 'grace', 5, '\x70a006cda48a927cbcbfad39f4d77d21ce74d327167822c9509782b36fb8b3f6', '\x5e8d64e2300602d40deceef568e1b3b2833ecae493cabd690d74141e5a0344c0', '\x6175646974206f662067726163653a2034');
INSERT INTO public._agent_store_log VALUES ('board', 'ada', 1, NULL, '\xd436c83d7e25e19376258286ebd402c8bc247bae0d3cc7b057f5339ac02f99c9', '\x626f617264206f66206164613a2030');
INSERT INTO public._agent_store_log VALUES ('board', 'ada', 2, '\xd436c83d7e25e19376258286ebd402c8bc247bae0d3cc7b057f5339ac02f99c9', '\x86705066a8def8a1ffe39d6680195fccb41388b1728975705fd3fb259de55222', '\x626f617264206f66206164613a2031');
INSERT INTO public._agent_store_log VALUES ('board', 'ada', 3, '\x86705066a8def8a1ffe39d6680195fccb41388b1728975705fd3fb259de55222', '\x013364d946ee13f7ffcbc0c4db875ba77cc61b8074b7089d20680e59d613db2d', '\x626f617264206f66206164613a2032');
INSERT INTO public._agent_store_log VALUES ('board', 'ada', 4, '\x013364d946ee13f7ffcbc0c4db875ba77cc61b8074b7089d20680e59d613db2d', '\x75a57ef16b541294919e93925ab095115473cbe7df855a70559c929312e2bf6f', '\x626f617264206f66206164613a2033');
INSERT INTO public._agent_store_log VALUES ('board', 'ada', 5, '\x75a57ef16b541294919e93925ab095115473cbe7df855a70559c929312e2bf6f', '\x7dbab83dbc897be25f6852f0f69d07d3ee8c28d321ef481537776ce4087939d3', '\x626f617264206f66206164613a2034');
INSERT INTO public._agent_store_log VALUES ('audit', 'ada', 6, '\x9ef1ea6e1e6ffcdd029cbb40e4adddcd59fbf7f38bba1cfc1bb8b2756335fd02', '\x5c2900def9a0611a470c8c3f615f81a9736c0231d1bed039d96f72782720c63b', '\x61667465722074686520636865636b706f696e74');
INSERT INTO public._agent_store_meta VALUES ('board', 1);
INSERT INTO public._agent_store_meta VALUES ('report', 40);
INSERT INTO public.dgent_checkpoints VALUES ('audit', 'ada', 'dgent/1', 5, '98ba85304ac639f0f55daab01ad6d592be44a125d9b3b65e1efca5b96960baec', '\xd2b335465f934e7cb565e6a667e76530abe3fc69d9c39ac390d09004c09b0c01', '\x03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8', '\x64f400b3bf217fe708b69b71d11449e4c7a5d803c736d9848c95e702079291beadbaa8e53e9d08ea45d4d8860349494e9f30dca7cde3fcb7337aed4e4212f60b');
INSERT INTO public.dgent_checkpoints VALUES ('audit', 'ada', 'agent-store/1', 5, '98ba85304ac639f0f55daab01ad6d592be44a125d9b3b65e1efca5b96960baec', '\x9ef1ea6e1e6ffcdd029cbb40e4adddcd59fbf7f38bba1cfc1bb8b2756335fd02', '\x03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8', '\x01b3a05eed10ce00ea46f8fb7602cfcfd2ef1741a00703e0bd87eb9b48bb9013e68321f783114a2116a514a9f1f904914d12074d5c55769767b4c631cd391204');
INSERT INTO public.dgent_datums VALUES ('default', 'child', 1, 2, true, 2000, 1796066469.5864275, NULL, 'root', '{"deep":{"a":[null,true]},"n":1.0}', '\xc3bc6ec3af636f646520e29883', '\xdcb49c7b2f4a010159cf4517f002ce36');
INSERT INTO public.dgent_datums VALUES ('default', 'grandchild', 1, 3, true, 3000, 1796066469.5943375, NULL, 'child', '{}', '\x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff', '\x26320c65fe07368bdf28d583bbfb98b4');
INSERT INTO public.dgent_datums VALUES ('default', 'root', 1, 1, false, 1000.25, 1796066469.574298, NULL, NULL, '{"tags":["maps","Karten"]}', '\x546865206d6170206973206e6f7420746865207465727269746f72792e', '\x81ce64938b2938387b4b25e368253895');
INSERT INTO public.dgent_datums VALUES ('default', 'root', 2, 4, true, 1000.5, 1796066469.6007612, NULL, NULL, '{"author":"ada","tags":["maps"]}', '\x4974206e65766572207761732e', '\x0b67a3953de76116e48a3da4f183e997');
INSERT INTO public.dgent_datums VALUES ('default', 'gone', 1, 5, false, 1, 1796066469.603716, NULL, NULL, '{}', '\x666f722061207768696c65', '\xa0a8fee8aeded2a4707ec0f217fd5f7a');
INSERT INTO public.dgent_datums VALUES ('default', 'gone', 2, 6, false, 1796066469.6063254, 1796066469.6063254, NULL, NULL, '{}', NULL, '\x3ae788e1913e631973d0742892a284c6');
INSERT INTO public.dgent_datums VALUES ('default', 'back', 1, 7, false, 2, 1796066469.6082196, NULL, NULL, '{}', '\x6669727374', '\x60dffd5a3a49426828ffd4953fc05b05');
INSERT INTO public.dgent_datums VALUES ('default', 'back', 2, 8, false, 1796066469.6089094, 1796066469.6089094, NULL, NULL, '{}', NULL, '\xb07035d84df645ada895882b913944c2');
INSERT INTO public.dgent_datums VALUES ('default', 'back', 3, 9, true, 3, 1796066469.6105034, NULL, NULL, '{}', '\x7365636f6e64', '\xf249999c741853663cc357bec09a5b18');
INSERT INTO public.dgent_datums VALUES ('default', 'lease', 1, 10, true, 4, 1796066469.611588, 11796066469.611588, NULL, '{}', '\x666f7220612076657279206c6f6e672074696d65', '\x847a48e7f70c5dbf899564ffad333e3c');
INSERT INTO public.dgent_datums VALUES ('default', 'expired', 1, 11, true, 5, 1796066469.614106, 1796066469.6151059, NULL, '{}', '\x6174206f6e6365', '\xc718737b86659fc7e1af1f38c4845146');
INSERT INTO public.dgent_datums VALUES ('default', 'many/000', 1, 13, true, 0, 1796066469.616939, NULL, NULL, '{"n":0}', '\x00', '\x29ac42e7cd4b8f2c95267f916396aa5e');
INSERT INTO public.dgent_datums VALUES ('default', 'many/001', 1, 14, true, 1, 1796066469.616939, NULL, NULL, '{"n":1}', '\x01', '\x8287615167a8dbcb66377f5e6fdaca0c');
INSERT INTO public.dgent_datums VALUES ('default', 'many/002', 1, 15, true, 2, 1796066469.616939, NULL, NULL, '{"n":2}', '\x02', '\x832f41a8933a2feab17c107fb264a064');
INSERT INTO public.dgent_datums VALUES ('default', 'many/003', 1, 16, true, 3, 1796066469.616939, NULL, NULL, '{"n":3}', '\x03', '\xc62cc7447704bc4bbad9477544190fa3');
INSERT INTO public.dgent_datums VALUES ('default', 'many/004', 1, 17, true, 4, 1796066469.616939, NULL, NULL, '{"n":4}', '\x04', '\x3b0642751279cd95f80b8b092a7e9f52');
INSERT INTO public.dgent_datums VALUES ('default', 'many/005', 1, 18, true, 5, 1796066469.616939, NULL, NULL, '{"n":5}', '\x05', '\x0932f85604c458edabca82891cff04f2');
INSERT INTO public.dgent_datums VALUES ('default', 'many/006', 1, 19, true, 6, 1796066469.616939, NULL, NULL, '{"n":6}', '\x06', '\x1ae8c10396f53e0b3d043c07d5b94efe');
INSERT INTO public.dgent_datums VALUES ('default', 'many/007', 1, 20, true, 7, 1796066469.616939, NULL, NULL, '{"n":7}', '\x07', '\x5491cea7e1eaea78015731b3c82dbbdc');
INSERT INTO public.dgent_datums VALUES ('agents/ada', 'note', 1, 1, true, 1.5, 1796066469.6248043, NULL, NULL, '{"tags":["tea"]}', '\x616e6f746865722074656e616e74', '\x518bf14a4c87f4570d035def67f2609a');
INSERT INTO public.dgent_datums VALUES ('agents/ada', '%_''"', 1, 2, true, -1000000000, 1796066469.6248043, NULL, NULL, '{}', '\x', '\x96935bec68c6f4d8d4c350dbd5cfecc2');
INSERT INTO public.dgent_datums VALUES ('.dgent/spill/d5738e4fd3afc99d', '01a22de7-6742-7493-97da-c132a4152253', 1, 1, true, 1796066469.6988163, 1796066469.6990495, NULL, NULL, '{}', '\x7b226e616d657370616365223a2264656661756c74222c226964223a2278222c2274746c223a6e756c6c2c226174223a313739363036363436392e363938383136332c2273696e6365223a31312e302c226166746572223a6e756c6c2c22726561736f6e223a22222c22637265617465645f6174223a31302e302c22706172656e74223a6e756c6c2c226d65746164617461223a227b7d227d0a7370696c6c6564', '\x28b89671da7fb302f804fde35fae43ec');
INSERT INTO public.dgent_datums VALUES ('.dgent/spill/d5738e4fd3afc99d', '01a22de7-6742-7207-81ff-004286bcb9dc', 1, 2, true, 1796066469.6988163, 1796066469.6990495, NULL, NULL, '{}', '\x7b226e616d657370616365223a2264656661756c74222c226964223a2279222c2274746c223a6e756c6c2c226174223a313739363036363436392e363938383136332c2273696e6365223a31312e302c226166746572223a6e756c6c2c22726561736f6e223a22227d0a', '\xb9238f6f53f51a628f9bdeab10720352');
INSERT INTO public.dgent_datums VALUES ('.dgent/spill/d5738e4fd3afc99d', '01a22de7-6748-7a4d-bca1-4e1cf291f462', 1, 3, true, 1796066469.7047424, 1796066469.704802, NULL, NULL, '{}', '\x7b226e616d657370616365223a226167656e74732f616461222c226964223a2278222c2274746c223a31303030303030303030302e302c226174223a313739363036363436392e373034373432342c2273696e6365223a31332e302c226166746572223a6e756c6c2c22726561736f6e223a22222c22637265617465645f6174223a31322e302c22706172656e74223a6e756c6c2c226d65746164617461223a227b7d227d0a656c73657768657265', '\x6e2df87602ad611d050ce23b651184d2');
INSERT INTO public.dgent_datums VALUES ('.dgent/aside/d5738e4fd3afc99d', '01a22de7-6742-7207-81ff-004286bcb9dc', 1, 1, true, 1796066469.6988163, 1796066469.707188, NULL, NULL, '{}', '\x7b226e616d657370616365223a2264656661756c74222c226964223a2279222c2274746c223a6e756c6c2c226174223a313739363036363436392e363938383136332c2273696e6365223a31312e302c226166746572223a6e756c6c2c22726561736f6e223a22227d0a', '\x586e07f8352fa6fb34b683805ca6c8b0');
INSERT INTO public.dgent_heads VALUES ('default', 20, 1796066469.616939);
INSERT INTO public.dgent_heads VALUES ('agents/ada', 2, 1796066469.6248043);
INSERT INTO public.dgent_heads VALUES ('.dgent/spill/d5738e4fd3afc99d', 3, 1796066469.704802);
INSERT INTO public.dgent_heads VALUES ('.dgent/aside/d5738e4fd3afc99d', 1, 1796066469.707188);
INSERT INTO public.dgent_log VALUES ('audit', 'ada', 1, NULL, '\x0f6c9a781b9e4d7e172ef926d2b7ecef88f770740dd98d401224fb2346dd6f94', '\x6175646974206f66206164613a2030');
INSERT INTO public.dgent_log VALUES ('audit', 'ada', 2, '\x0f6c9a781b9e4d7e172ef926d2b7ecef88f770740dd98d401224fb2346dd6f94', '\x0fbd8320e30e46d23c7150de03720c94bb0ffc5d3ec49f4221c1cb6380593ae5', '\x6175646974206f66206164613a2031');
INSERT INTO public.dgent_log VALUES ('audit', 'ada', 3, '\x0fbd8320e30e46d23c7150de03720c94bb0ffc5d3ec49f4221c1cb6380593ae5', '\x9b22a4bcb0cc24aac26729188e0b1657e3d23fe7a61588b4ea8584b105de7b37', '\x6175646974206f66206164613a2032');
INSERT INTO public.dgent_log VALUES ('audit', 'ada', 4, '\x9b22a4bcb0cc24aac26729188e0b1657e3d23fe7a61588b4ea8584b105de7b37', '\x59122e2f1a142db4da277bd81d11358187fa2d1d13243458fbaad9520479221c', '\x6175646974206f66206164613a2033');
INSERT INTO public.dgent_log VALUES ('audit', 'ada', 5, '\x59122e2f1a142db4da277bd81d11358187fa2d1d13243458fbaad9520479221c', '\xd2b335465f934e7cb565e6a667e76530abe3fc69d9c39ac390d09004c09b0c01', '\x6175646974206f66206164613a2034');
INSERT INTO public.dgent_log VALUES ('audit', 'grace', 1, NULL, '\x33a14d300cb2e01110f9102e70b4b8e387de8f43fcc797ec8395a7550610b59e', '\x6175646974206f662067726163653a2030');
INSERT INTO public.dgent_log VALUES ('audit', 'grace', 2, '\x33a14d300cb2e01110f9102e70b4b8e387de8f43fcc797ec8395a7550610b59e', '\x0cd31e6635a09014d35751e71ae830e2f40aae064b2ddb295737091e56d7a73b', '\x6175646974206f662067726163653a2031');
INSERT INTO public.dgent_log VALUES ('audit', 'grace', 3, '\x0cd31e6635a09014d35751e71ae830e2f40aae064b2ddb295737091e56d7a73b', '\xa647e2e0279318d8ccf4d4eb42ec5a510d14174823f53073374a7bb79b5b2889', '\x6175646974206f662067726163653a2032');
INSERT INTO public.dgent_log VALUES ('audit', 'grace', 4, '\xa647e2e0279318d8ccf4d4eb42ec5a510d14174823f53073374a7bb79b5b2889', '\x77977e608fd1f9543b1920e75c19a0f95aced99b0d005a976e059bda40d97b67', '\x6175646974206f662067726163653a2033');
INSERT INTO public.dgent_log VALUES ('audit', 'grace', 5, '\x77977e608fd1f9543b1920e75c19a0f95aced99b0d005a976e059bda40d97b67', '\xb583d1e836cb6897a4fd66a1a3a88f3ddfe28b43b3fe196e5c05c5da4ec19694', '\x6175646974206f662067726163653a2034');
INSERT INTO public.dgent_log VALUES ('board', 'ada', 1, NULL, '\xd3f73ffcfea78e285f18ea4c0b27013b0357f5fdf44b2b9f6565ddbdbd5978f0', '\x626f617264206f66206164613a2030');
INSERT INTO public.dgent_log VALUES ('board', 'ada', 2, '\xd3f73ffcfea78e285f18ea4c0b27013b0357f5fdf44b2b9f6565ddbdbd5978f0', '\x800beaf4871878885f0c968297d69f911470b50a365afd41c9d42d5f3855b460', '\x626f617264206f66206164613a2031');
INSERT INTO public.dgent_log VALUES ('board', 'ada', 3, '\x800beaf4871878885f0c968297d69f911470b50a365afd41c9d42d5f3855b460', '\xcbe9623731dd7e95daf5e1c888133ec58941d9bcc4b440fa38a4d3624e728005', '\x626f617264206f66206164613a2032');
INSERT INTO public.dgent_log VALUES ('board', 'ada', 4, '\xcbe9623731dd7e95daf5e1c888133ec58941d9bcc4b440fa38a4d3624e728005', '\x5d467c580c7751983b06685b49f4bbe18e44357cc9728ace3695e9338dc552ef', '\x626f617264206f66206164613a2033');
INSERT INTO public.dgent_log VALUES ('board', 'ada', 5, '\x5d467c580c7751983b06685b49f4bbe18e44357cc9728ace3695e9338dc552ef', '\x8f41458479ba4fd81de8c8ff794263f5d0855732410e6cc234e3887f323489b9', '\x626f617264206f66206164613a2034');
INSERT INTO public.dgent_log VALUES ('audit', 'ada', 6, '\xd2b335465f934e7cb565e6a667e76530abe3fc69d9c39ac390d09004c09b0c01', '\xb8666dd50c0490b5a4d9159de13adfdc6e1f8326ab33abd5b2275badd07bd930', '\x61667465722074686520636865636b706f696e74');
INSERT INTO public.dgent_meta VALUES ('format', '1');
INSERT INTO public.dgent_meta VALUES ('store_id', '01a22de7-66c4-7dbd-b917-46a1c7d93baa');
INSERT INTO public.dgent_outbox VALUES ('agents/ada', 1796066469694702, 'a', '{"id":"a","text":"waits","created_at":7.0,"causal_parent":null,"metadata":{"tags":["x"]},"version":0,"seq":0}', NULL, 1796066469.6947026, NULL);
INSERT INTO public.dgent_outbox VALUES ('agents/ada', 1796066469694703, 'a', NULL, NULL, 1796066469.6947026, NULL);
INSERT INTO public.dgent_outbox VALUES ('agents/ada', 1796066469694704, 'b', '{"id":"b","text":"","created_at":8.0,"causal_parent":null,"metadata":{},"version":0,"seq":0}', 60, 1796066469.6947026, NULL);
INSERT INTO public.dgent_outbox VALUES ('default', 1796066469696926, 'a', '{"id":"a","text":"waits","created_at":7.0,"causal_parent":null,"metadata":{"tags":["x"]},"version":0,"seq":0}', NULL, 1796066469.6969259, NULL);
INSERT INTO public.dgent_outbox VALUES ('default', 1796066469696927, 'a', NULL, NULL, 1796066469.6969259, NULL);
INSERT INTO public.dgent_outbox VALUES ('default', 1796066469696928, 'b', '{"id":"b","text":"","created_at":8.0,"causal_parent":null,"metadata":{},"version":0,"seq":0}', 60, 1796066469.6969259, NULL);
INSERT INTO public.dgent_outbox VALUES ('default', 1796066469698118, 'c', '{"id":"c","text":"kept","created_at":9.0,"causal_parent":null,"metadata":{},"version":0,"seq":0}', -1, 1796066469.698118, NULL);
INSERT INTO public.dgent_terms VALUES ('default', -6481082941587040474, 2000, 'child', 1);
INSERT INTO public.dgent_terms VALUES ('default', 8651205201272658341, 1000.5, 'root', 2);
INSERT INTO public.dgent_terms VALUES ('default', -8436821700679764313, 1000.5, 'root', 2);
INSERT INTO public.dgent_terms VALUES ('default', 8290164660556119460, 0, 'many/000', 1);
INSERT INTO public.dgent_terms VALUES ('default', -6481082941587040474, 1, 'many/001', 1);
INSERT INTO public.dgent_terms VALUES ('default', -1337876859927734063, 2, 'many/002', 1);
INSERT INTO public.dgent_terms VALUES ('default', -6705727880356162116, 3, 'many/003', 1);
INSERT INTO public.dgent_terms VALUES ('default', 7724723030972289224, 4, 'many/004', 1);
INSERT INTO public.dgent_terms VALUES ('default', 6436777892752050536, 5, 'many/005', 1);
INSERT INTO public.dgent_terms VALUES ('default', -2377225127880612343, 6, 'many/006', 1);
INSERT INTO public.dgent_terms VALUES ('default', -5830266763592446775, 7, 'many/007', 1);
INSERT INTO public.dgent_terms VALUES ('agents/ada', 6446821614623505262, 1.5, 'note', 1);
ALTER TABLE ONLY public._agent_store_log
    ADD CONSTRAINT _agent_store_log_pkey PRIMARY KEY (stream, writer, seq);
ALTER TABLE ONLY public._agent_store_meta
    ADD CONSTRAINT _agent_store_meta_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.dgent_checkpoints
    ADD CONSTRAINT dgent_checkpoints_pkey PRIMARY KEY (stream, writer, format, seq, signer);
ALTER TABLE ONLY public.dgent_datums
    ADD CONSTRAINT dgent_datums_pkey PRIMARY KEY (namespace, id, version);
ALTER TABLE ONLY public.dgent_heads
    ADD CONSTRAINT dgent_heads_pkey PRIMARY KEY (namespace);
ALTER TABLE ONLY public.dgent_log
    ADD CONSTRAINT dgent_log_pkey PRIMARY KEY (stream, writer, seq);
ALTER TABLE ONLY public.dgent_meta
    ADD CONSTRAINT dgent_meta_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.dgent_outbox
    ADD CONSTRAINT dgent_outbox_pkey PRIMARY KEY (namespace, seq);
ALTER TABLE ONLY public.dgent_terms
    ADD CONSTRAINT dgent_terms_pkey PRIMARY KEY (namespace, term, created_at, id);
CREATE INDEX ix_dgent_datums_expiry ON public.dgent_datums USING btree (namespace, expires_at) WHERE (live AND (expires_at IS NOT NULL));
CREATE INDEX ix_dgent_datums_parent ON public.dgent_datums USING btree (namespace, parent) WHERE (live AND (parent IS NOT NULL));
CREATE UNIQUE INDEX ix_dgent_datums_seq ON public.dgent_datums USING btree (namespace, seq);
CREATE INDEX ix_dgent_datums_time ON public.dgent_datums USING btree (namespace, created_at, id) WHERE live;
CREATE INDEX ix_dgent_outbox_id ON public.dgent_outbox USING btree (id);
