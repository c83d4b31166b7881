-- The tables. Scripts and notebooks rely on these names; units are part of the names. A change that makes an older reader misread
-- the file needs a higher VERSION in schema.py.

CREATE TABLE trials (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    state VARCHAR, bits_per_weight DOUBLE, sparsity DOUBLE, compress_seconds DOUBLE, total_seconds DOUBLE,
    peak_memory_bytes BIGINT, error VARCHAR, size_mib DOUBLE, cause VARCHAR, hint VARCHAR, stage VARCHAR, stages INTEGER,
    stages_done INTEGER, attempts INTEGER, backend VARCHAR, backend_version VARCHAR, seed BIGINT, options JSON,
    calibration JSON, started_at TIMESTAMP, finished_at TIMESTAMP, host VARCHAR, device VARCHAR, device_kind VARCHAR,
    dtype VARCHAR, available BOOLEAN, weights_key VARCHAR, position INTEGER,
    peak_device_bytes BIGINT, file_mib DOUBLE, embedding_share DOUBLE, why_no_file VARCHAR,
    transformers VARCHAR, vllm_gpu VARCHAR, vllm_cpu VARCHAR, note VARCHAR
);
COMMENT ON TABLE trials IS 'one row per trial that the spec asks for';
COMMENT ON COLUMN trials.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN trials.model IS 'id of the model as in the spec';
COMMENT ON COLUMN trials.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN trials.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN trials.state IS 'pending, running, done, failed or stopped';
COMMENT ON COLUMN trials.bits_per_weight IS 'mean bits per weight of the block linears, with scales, zero points and masks; no runtime reads masks or gains from zeros: on disk a pruned model has 16 bits';
COMMENT ON COLUMN trials.sparsity IS 'fraction of those weights that is zero, 0 to 1';
COMMENT ON COLUMN trials.compress_seconds IS 'time of the current compress step';
COMMENT ON COLUMN trials.total_seconds IS 'time of all current steps together, load included';
COMMENT ON COLUMN trials.peak_memory_bytes IS 'highest peak of a current step: memory of the process';
COMMENT ON COLUMN trials.peak_device_bytes IS 'highest peak of a current step: memory that torch allocated on the GPU; NULL on a CPU';
COMMENT ON COLUMN trials.error IS 'why it failed, on one line; NULL unless it failed';
COMMENT ON COLUMN trials.size_mib IS 'MiB of the weights of the whole model as stored: quantized linears as an export packs them, all else in the dtype of the model''s files; NULL: planned before version 0.3, or not looked up';
COMMENT ON COLUMN trials.cause IS 'error, out_of_memory, killed or stopped; NULL unless it failed';
COMMENT ON COLUMN trials.hint IS 'what to do about the failure';
COMMENT ON COLUMN trials.stage IS 'step that runs now, or that failed';
COMMENT ON COLUMN trials.stages IS 'steps that the spec asks for, without load';
COMMENT ON COLUMN trials.stages_done IS 'those of them whose results are stored';
COMMENT ON COLUMN trials.attempts IS 'attempts so far';
COMMENT ON COLUMN trials.backend IS 'whose implementation compressed it';
COMMENT ON COLUMN trials.backend_version IS 'version of that implementation';
COMMENT ON COLUMN trials.seed IS 'seed of the random choices; NULL when nothing is drawn';
COMMENT ON COLUMN trials.options IS 'settings of the method, defaults included';
COMMENT ON COLUMN trials.calibration IS 'calibration text of the method; NULL for methods without data';
COMMENT ON COLUMN trials.started_at IS 'start of the first attempt, UTC';
COMMENT ON COLUMN trials.finished_at IS 'end of the newest current step, UTC';
COMMENT ON COLUMN trials.host IS 'computer that ran it';
COMMENT ON COLUMN trials.device IS 'device that computed it';
COMMENT ON COLUMN trials.device_kind IS 'cpu or cuda; NULL: not recorded';
COMMENT ON COLUMN trials.dtype IS 'type of weights and activations';
COMMENT ON COLUMN trials.available IS 'false: its sources could not be looked up when the study was planned';
COMMENT ON COLUMN trials.weights_key IS 'hash of everything that determines its weights';
COMMENT ON COLUMN trials.file_mib IS 'MiB of the GGUF file that `studyctl export --to gguf` writes, to the byte: the model as it is deployed, pruned ones at 16 bits; NULL: there can be none (why_no_file), or it was made before version 0.3';
COMMENT ON COLUMN trials.embedding_share IS 'fraction of that file that the matrices over the vocabulary take';
COMMENT ON COLUMN trials.note IS 'what somebody wrote about it in the terminal app; NULL: nothing';
COMMENT ON COLUMN trials.why_no_file IS 'why GGUF cannot hold it; NULL where it can, and where that is not known';
COMMENT ON COLUMN trials.transformers IS 'loads, or why transformers does not load the folder that `studyctl export` writes; NULL: a checkpoint with files of its own, or planned before version 0.3';
COMMENT ON COLUMN trials.vllm_gpu IS 'the same of vLLM on an NVIDIA GPU, by the rules of its kernels; not tried';
COMMENT ON COLUMN trials.vllm_cpu IS 'the same of vLLM on a CPU';
COMMENT ON COLUMN trials.position IS 'place in the plan, from 0';

CREATE TABLE attempts (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    attempt INTEGER, state VARCHAR, stage VARCHAR, error VARCHAR, cause VARCHAR, hint VARCHAR, seconds DOUBLE,
    peak_memory_bytes BIGINT, started_at TIMESTAMP, finished_at TIMESTAMP, host VARCHAR, device VARCHAR,
    device_kind VARCHAR, dtype VARCHAR, pid BIGINT, threads INTEGER, backend VARCHAR, backend_version VARCHAR,
    studyctl VARCHAR, versions JSON, spec_hash VARCHAR, weights_key VARCHAR, current BOOLEAN, journal VARCHAR
);
COMMENT ON TABLE attempts IS 'one row per attempt, also of those for weights that the spec no longer asks for';
COMMENT ON COLUMN attempts.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN attempts.model IS 'id of the model as in the spec';
COMMENT ON COLUMN attempts.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN attempts.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN attempts.attempt IS 'number, from 1';
COMMENT ON COLUMN attempts.state IS 'running, done, failed or stopped (also if it was killed)';
COMMENT ON COLUMN attempts.stage IS 'step that runs now, or that failed';
COMMENT ON COLUMN attempts.error IS 'why it failed, on one line';
COMMENT ON COLUMN attempts.cause IS 'error, out_of_memory, killed or stopped';
COMMENT ON COLUMN attempts.hint IS 'what to do about the failure';
COMMENT ON COLUMN attempts.seconds IS 'time from start to end';
COMMENT ON COLUMN attempts.peak_memory_bytes IS 'highest memory of its process';
COMMENT ON COLUMN attempts.started_at IS 'start, UTC';
COMMENT ON COLUMN attempts.finished_at IS 'end, UTC; NULL while it runs or if it was killed';
COMMENT ON COLUMN attempts.host IS 'computer that ran it';
COMMENT ON COLUMN attempts.device IS 'device that computed it';
COMMENT ON COLUMN attempts.device_kind IS 'cpu or cuda; NULL: not recorded';
COMMENT ON COLUMN attempts.dtype IS 'type of weights and activations';
COMMENT ON COLUMN attempts.pid IS 'process id';
COMMENT ON COLUMN attempts.threads IS 'threads of tensor operations';
COMMENT ON COLUMN attempts.backend IS 'whose implementation compressed it';
COMMENT ON COLUMN attempts.backend_version IS 'version of that implementation';
COMMENT ON COLUMN attempts.studyctl IS 'version of studyctl';
COMMENT ON COLUMN attempts.versions IS 'versions of the packages that computed it';
COMMENT ON COLUMN attempts.spec_hash IS 'hash of the spec at that time';
COMMENT ON COLUMN attempts.weights_key IS 'hash of everything that determines its weights';
COMMENT ON COLUMN attempts.current IS 'whether the spec still asks for these weights';
COMMENT ON COLUMN attempts.journal IS 'file name of its journal';

CREATE TABLE steps (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    step VARCHAR, kind VARCHAR, subject VARCHAR, state VARCHAR, seconds DOUBLE, peak_memory_bytes BIGINT,
    attempt INTEGER, finished_at TIMESTAMP, key VARCHAR, weights_hash VARCHAR, measured_since TIMESTAMP, texts_key VARCHAR,
    peak_device_bytes BIGINT
);
COMMENT ON TABLE steps IS 'one row per step of a trial: load, and those that the spec asks for; all windows of a language are one row';
COMMENT ON COLUMN steps.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN steps.model IS 'id of the model as in the spec';
COMMENT ON COLUMN steps.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN steps.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN steps.step IS 'load, compress, perplexity:<language>, activations:<language>, task:<task>, deploy or export';
COMMENT ON COLUMN steps.kind IS 'load, compress, perplexity, activations, task, deploy or export';
COMMENT ON COLUMN steps.subject IS 'language or task; NULL for other steps';
COMMENT ON COLUMN steps.state IS 'pending, running, done, failed or stopped';
COMMENT ON COLUMN steps.seconds IS 'time of the step itself, without imports and loading (which is the step load)';
COMMENT ON COLUMN steps.peak_memory_bytes IS 'highest memory of the process while it ran';
COMMENT ON COLUMN steps.peak_device_bytes IS 'most that torch allocated on the GPU while it ran; NULL on a CPU, or in another package''s process';
COMMENT ON COLUMN steps.attempt IS 'attempt whose result is current; the newest, if several contributed';
COMMENT ON COLUMN steps.finished_at IS 'end, UTC';
COMMENT ON COLUMN steps.key IS 'hash of everything that determines its result, except weights and windows';
COMMENT ON COLUMN steps.weights_hash IS 'hash of the weights that it made or measured';
COMMENT ON COLUMN steps.measured_since IS 'start of the first attempt that contributed to its result, UTC';
COMMENT ON COLUMN steps.texts_key IS 'of a task: the texts of its items in item_texts, which models with the same prompts share; NULL: other steps, and where no texts are kept';

CREATE TABLE layers (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    block INTEGER, linear VARCHAR, relative_error DOUBLE, sparsity DOUBLE, bits_per_weight DOUBLE, seconds DOUBLE,
    weights BIGINT, damping DOUBLE
);
COMMENT ON TABLE layers IS 'one row per compressed linear';
COMMENT ON COLUMN layers.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN layers.model IS 'id of the model as in the spec';
COMMENT ON COLUMN layers.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN layers.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN layers.block IS 'decoder block, from 0';
COMMENT ON COLUMN layers.linear IS 'name of the linear within its block';
COMMENT ON COLUMN layers.relative_error IS 'error of its outputs on a sample of the calibration tokens / the outputs (Frobenius norms); without data, of its weight';
COMMENT ON COLUMN layers.sparsity IS 'fraction of its weights that is zero, 0 to 1';
COMMENT ON COLUMN layers.bits_per_weight IS 'bits per weight, with scales, zero points and masks';
COMMENT ON COLUMN layers.seconds IS 'time to compress it';
COMMENT ON COLUMN layers.weights IS 'number of its weights';
COMMENT ON COLUMN layers.damping IS 'damping that was needed, as a fraction of the mean of diag H; NULL for methods without damping';

CREATE TABLE perplexity (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    language VARCHAR, perplexity DOUBLE, bits_per_byte DOUBLE, nll_nats DOUBLE, tokens BIGINT, bytes BIGINT,
    sequence_length INTEGER, bos BOOLEAN, windows INTEGER, characters BIGINT, bits_per_character DOUBLE, bzip2_bits_per_byte DOUBLE
);
COMMENT ON TABLE perplexity IS 'one row per language';
COMMENT ON COLUMN perplexity.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN perplexity.model IS 'id of the model as in the spec';
COMMENT ON COLUMN perplexity.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN perplexity.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN perplexity.language IS 'language of the text';
COMMENT ON COLUMN perplexity.perplexity IS 'exp(nll_nats / tokens); comparable only with the same tokenizer; NULL if not finite';
COMMENT ON COLUMN perplexity.bits_per_byte IS 'nll_nats / ln 2 / bytes; comparable between tokenizers';
COMMENT ON COLUMN perplexity.nll_nats IS 'negative log-likelihood, summed over the scored tokens';
COMMENT ON COLUMN perplexity.tokens IS 'scored tokens';
COMMENT ON COLUMN perplexity.bytes IS 'UTF-8 bytes of the scored text';
COMMENT ON COLUMN perplexity.sequence_length IS 'tokens of a window';
COMMENT ON COLUMN perplexity.bos IS 'whether each window begins with a BOS token';
COMMENT ON COLUMN perplexity.windows IS 'measured windows; NULL: measured before version 0.2';
COMMENT ON COLUMN perplexity.characters IS 'characters (Unicode code points) of the scored text';
COMMENT ON COLUMN perplexity.bits_per_character IS 'nll_nats / ln 2 / characters; comparable between tokenizers, and between scripts that take one or three bytes a character';
COMMENT ON COLUMN perplexity.bzip2_bits_per_byte IS 'bits per byte that bzip2 needs for the text (its first 900 kB at most); NULL: measured before version 0.3';

CREATE TABLE windows (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    language VARCHAR, "window" INTEGER, nll_nats DOUBLE, tokens INTEGER, place INTEGER, document INTEGER,
    bytes INTEGER, characters INTEGER, kl_nats DOUBLE, top1 INTEGER, signal DOUBLE, noise DOUBLE
);
COMMENT ON TABLE windows IS 'one row per window of a language''s text';
COMMENT ON COLUMN windows.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN windows.model IS 'id of the model as in the spec';
COMMENT ON COLUMN windows.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN windows.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN windows.language IS 'language of the text';
COMMENT ON COLUMN windows."window" IS 'number of the window in the text, from 0';
COMMENT ON COLUMN windows.nll_nats IS 'negative log-likelihood, summed over its scored tokens';
COMMENT ON COLUMN windows.tokens IS 'scored tokens';
COMMENT ON COLUMN windows.place IS 'place in the order in which windows are measured, from 0';
COMMENT ON COLUMN windows.document IS 'document of the text in which it begins, from 0';
COMMENT ON COLUMN windows.bytes IS 'UTF-8 bytes of its scored tokens';
COMMENT ON COLUMN windows.characters IS 'characters of its scored tokens';
COMMENT ON COLUMN windows.kl_nats IS 'KL(dense || compressed), summed over its scored tokens';
COMMENT ON COLUMN windows.top1 IS 'positions where both models predict the same most likely token';
COMMENT ON COLUMN windows.signal IS 'energy of the dense model''s mean-centred logits, summed over its scored tokens';
COMMENT ON COLUMN windows.noise IS 'energy of the difference of the two models'' mean-centred logits, summed likewise';

CREATE TABLE fidelity (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    language VARCHAR, kl_nats DOUBLE, kl_p95_nats DOUBLE, top1 DOUBLE, snr_db DOUBLE, tokens BIGINT
);
COMMENT ON TABLE fidelity IS 'one row per language: distance to the dense model at the same positions';
COMMENT ON COLUMN fidelity.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN fidelity.model IS 'id of the model as in the spec';
COMMENT ON COLUMN fidelity.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN fidelity.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN fidelity.language IS 'language of the text';
COMMENT ON COLUMN fidelity.kl_nats IS 'KL(dense || compressed), mean over tokens';
COMMENT ON COLUMN fidelity.kl_p95_nats IS '95th percentile of KL(dense || compressed) over tokens, to 2 %';
COMMENT ON COLUMN fidelity.top1 IS 'top-1 agreement: fraction of positions where both models predict the same most likely token';
COMMENT ON COLUMN fidelity.snr_db IS 'signal-to-noise ratio of the mean-centred logits, energies summed over all tokens';
COMMENT ON COLUMN fidelity.tokens IS 'positions compared';

CREATE TABLE activations (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    language VARCHAR, block INTEGER, snr_db DOUBLE, relative_error DOUBLE, tokens BIGINT, signal DOUBLE, noise DOUBLE
);
COMMENT ON TABLE activations IS 'one row per language and decoder block of a compressed trial, if the spec asks for it (evaluation.fidelity.activations): distance of the hidden state after the block to the dense model''s';
COMMENT ON COLUMN activations.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN activations.model IS 'id of the model as in the spec';
COMMENT ON COLUMN activations.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN activations.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN activations.language IS 'language of the text';
COMMENT ON COLUMN activations.block IS 'decoder block, from 0';
COMMENT ON COLUMN activations.snr_db IS 'signal-to-noise ratio, 10 log10(signal / noise); NULL if both models have the same states';
COMMENT ON COLUMN activations.relative_error IS 'sqrt(noise / signal)';
COMMENT ON COLUMN activations.tokens IS 'tokens that were compared: the scored ones of the first 8 windows';
COMMENT ON COLUMN activations.signal IS 'energy of the dense model''s states, summed over tokens and channels';
COMMENT ON COLUMN activations.noise IS 'energy of the difference of the two models'' states, summed likewise';

CREATE TABLE tasks (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    task VARCHAR, metric VARCHAR, value DOUBLE, stderr DOUBLE, items BIGINT, main BOOLEAN, averaged BOOLEAN,
    shots INTEGER, "limit" INTEGER, language VARCHAR
);
COMMENT ON TABLE tasks IS 'one row per metric of a task';
COMMENT ON COLUMN tasks.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN tasks.model IS 'id of the model as in the spec';
COMMENT ON COLUMN tasks.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN tasks.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN tasks.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN tasks.metric IS 'lm-eval''s name without its filter, such as acc';
COMMENT ON COLUMN tasks.value IS 'value of the metric';
COMMENT ON COLUMN tasks.stderr IS 'standard error as lm-eval computes it';
COMMENT ON COLUMN tasks.items IS 'items scored';
COMMENT ON COLUMN tasks.main IS 'whether it is the task''s main metric: lm-eval''s first, or the spec''s';
COMMENT ON COLUMN tasks.averaged IS 'whether it counts in means over tasks: a main metric that is a fraction, higher is better';
COMMENT ON COLUMN tasks.shots IS 'few-shot examples before each item; NULL: measured before version 0.2';
COMMENT ON COLUMN tasks."limit" IS 'number of items that the spec limits the task to; 0: all';
COMMENT ON COLUMN tasks.language IS 'language of a task of one''s own, as the spec says now; NULL where it does not';

CREATE TABLE items (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    task VARCHAR, item INTEGER, gold INTEGER, predicted INTEGER, correct TINYINT, correct_norm TINYINT,
    loglikelihoods DOUBLE[], score DOUBLE, passage VARCHAR, answer VARCHAR
);
COMMENT ON TABLE items IS 'one row per item of a task';
COMMENT ON COLUMN items.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN items.model IS 'id of the model as in the spec';
COMMENT ON COLUMN items.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN items.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN items.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN items.item IS 'lm-eval''s doc_id';
COMMENT ON COLUMN items.gold IS 'number of the right choice, from 0';
COMMENT ON COLUMN items.predicted IS 'number of the choice with the highest log-likelihood, from 0';
COMMENT ON COLUMN items.correct IS '1 if right by the task''s main metric, 0 if wrong; NULL if the metric has other values';
COMMENT ON COLUMN items.correct_norm IS '1 if right by log-likelihood per character (acc_norm), else 0; NULL if the task has no acc_norm';
COMMENT ON COLUMN items.loglikelihoods IS 'of the choices in their order, in nats';
COMMENT ON COLUMN items.score IS 'value of the task''s main metric; NULL if items have none';
COMMENT ON COLUMN items.passage IS 'hash of the text that the item is about: items about one passage are not independent draws';
COMMENT ON COLUMN items.answer IS 'generated answer as it was judged, cut to 1,000 characters; NULL for choices, with keep_texts = false, or measured before version 0.3';

CREATE TABLE item_texts (
    texts_key VARCHAR, task VARCHAR, item INTEGER, prompt VARCHAR, choices VARCHAR[], target VARCHAR
);
COMMENT ON TABLE item_texts IS 'one row per item of a task, once for all trials: what was asked. Test sets leak: mind to whom you give this table, the view flips and the folder items/ of the study. Empty for tasks measured before version 0.3 or with keep_texts = false, and where items/ was deleted';
COMMENT ON COLUMN item_texts.texts_key IS 'hash of everything that determines the texts, as in steps.texts_key';
COMMENT ON COLUMN item_texts.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN item_texts.item IS 'lm-eval''s doc_id';
COMMENT ON COLUMN item_texts.prompt IS 'context as it was scored, with few-shot examples and chat template. A text is cut to 4,000 characters (fewer where a task has more than 4,194 items): … stands for a part between its beginning and its end';
COMMENT ON COLUMN item_texts.choices IS 'what continues the prompt, in the order of items.loglikelihoods; empty where answers are generated';
COMMENT ON COLUMN item_texts.target IS 'right answer where there are no choices; NULL for choices';

CREATE TABLE task_flips (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    task VARCHAR, metric VARCHAR, items BIGINT, right_to_wrong BIGINT, wrong_to_right BIGINT, mcnemar_p DOUBLE
);
COMMENT ON TABLE task_flips IS 'one row per metric of a task: how its items flipped, paired with the dense model''s';
COMMENT ON COLUMN task_flips.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN task_flips.model IS 'id of the model as in the spec';
COMMENT ON COLUMN task_flips.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN task_flips.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN task_flips.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN task_flips.metric IS 'the task''s main metric, if items are right or wrong by it, or acc_norm';
COMMENT ON COLUMN task_flips.items IS 'items that both models were scored on';
COMMENT ON COLUMN task_flips.right_to_wrong IS 'items that the dense model has right and this one wrong';
COMMENT ON COLUMN task_flips.wrong_to_right IS 'items that the dense model has wrong and this one right';
COMMENT ON COLUMN task_flips.mcnemar_p IS 'exact two-sided McNemar test of the two counts';

CREATE TABLE task_chance (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    task VARCHAR, metric VARCHAR, chance DOUBLE, p DOUBLE, above BOOLEAN
);
COMMENT ON TABLE task_chance IS 'one row per metric of a task by which items are right or wrong: whether the answers are better than chance';
COMMENT ON COLUMN task_chance.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN task_chance.model IS 'id of the model as in the spec';
COMMENT ON COLUMN task_chance.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN task_chance.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN task_chance.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN task_chance.metric IS 'the task''s main metric, or acc_norm';
COMMENT ON COLUMN task_chance.chance IS 'score of guessing: mean of 1 / choices, or the share of the commonest right answer if that is larger; 0 where answers are generated';
COMMENT ON COLUMN task_chance.p IS 'probability that guessing has as many right answers as this trial and the dense model have on average, or more (exact)';
COMMENT ON COLUMN task_chance.above IS 'whether p < 0.05; where not, the task is at chance, and its change says nothing';

CREATE TABLE intervals (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    measure VARCHAR, subject VARCHAR, pairs BIGINT, low DOUBLE, high DOUBLE
);
COMMENT ON TABLE intervals IS 'one row per figure compared with the dense model''s: its 95 % interval, windows and items paired; formulas: docs/evaluation.md';
COMMENT ON COLUMN intervals.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN intervals.model IS 'id of the model as in the spec';
COMMENT ON COLUMN intervals.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN intervals.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN intervals.measure IS 'ppl_ratio, bits_per_byte_change, bits_per_character_change, kl_nats, kl_nats_per_byte, or the metric of a task, of its change; main: the mean over tasks of their main metrics; main_above_chance: of those above chance';
COMMENT ON COLUMN intervals.subject IS 'language or task; NULL: the mean over all of them, geometric for ratios';
COMMENT ON COLUMN intervals.pairs IS 'windows or items of both models (documents or passages, if these are the units); for a mean, its languages or tasks';
COMMENT ON COLUMN intervals.low IS 'lower end';
COMMENT ON COLUMN intervals.high IS 'upper end';

CREATE TABLE runtime_fidelity (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    language VARCHAR, windows INTEGER, tokens BIGINT, kl_nats DOUBLE
);
COMMENT ON TABLE runtime_fidelity IS 'one row per language, if the spec has evaluation.speed: distance to dense of the logits that llama.cpp computes of the trial''s file';
COMMENT ON COLUMN runtime_fidelity.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN runtime_fidelity.model IS 'id of the model as in the spec';
COMMENT ON COLUMN runtime_fidelity.method IS 'compression method; dense for the uncompressed model, whose file differs by how the runtime rounds';
COMMENT ON COLUMN runtime_fidelity.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN runtime_fidelity.language IS 'language of the text';
COMMENT ON COLUMN runtime_fidelity.windows IS 'windows, the first in the order in which they are measured (windows.place)';
COMMENT ON COLUMN runtime_fidelity.tokens IS 'positions compared';
COMMENT ON COLUMN runtime_fidelity.kl_nats IS 'KL(dense || file), mean over tokens';

CREATE TABLE speed_runs (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    session VARCHAR, round INTEGER, place INTEGER, copy INTEGER, phase VARCHAR, threads INTEGER, tokens INTEGER,
    wall_seconds DOUBLE, cpu_seconds DOUBLE, load_seconds DOUBLE, resident_bytes BIGINT, file_bytes BIGINT,
    error VARCHAR, complete BOOLEAN, runtime VARCHAR, build VARCHAR, cpu VARCHAR, host VARCHAR, "at" TIMESTAMP
);
COMMENT ON TABLE speed_runs IS 'one row per process that timed the file of a trial''s current weights, and phase';
COMMENT ON COLUMN speed_runs.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN speed_runs.model IS 'id of the model as in the spec';
COMMENT ON COLUMN speed_runs.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN speed_runs.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN speed_runs.session IS 'session: files of a model that are timed in the same rounds';
COMMENT ON COLUMN speed_runs.round IS 'round of the session, from 0';
COMMENT ON COLUMN speed_runs.place IS 'place in the order of the round, which is drawn, from 0';
COMMENT ON COLUMN speed_runs.copy IS '0; of dense, which is timed twice in a round, also 1';
COMMENT ON COLUMN speed_runs.phase IS 'prefill (the tokens of a prompt, many at once) or decode (one after another)';
COMMENT ON COLUMN speed_runs.threads IS 'threads of the runtime';
COMMENT ON COLUMN speed_runs.tokens IS 'tokens that the phase computed';
COMMENT ON COLUMN speed_runs.wall_seconds IS 'wall time of the phase; NULL: it could not be timed';
COMMENT ON COLUMN speed_runs.cpu_seconds IS 'CPU time of all threads meanwhile';
COMMENT ON COLUMN speed_runs.load_seconds IS 'wall time to load the file, which is read and not mapped';
COMMENT ON COLUMN speed_runs.resident_bytes IS 'memory (RSS) that the runtime took on, after the prompt';
COMMENT ON COLUMN speed_runs.file_bytes IS 'size of the file';
COMMENT ON COLUMN speed_runs.error IS 'why it could not be timed';
COMMENT ON COLUMN speed_runs.complete IS 'whether the session was not stopped; only then it counts';
COMMENT ON COLUMN speed_runs.runtime IS 'llama.cpp';
COMMENT ON COLUMN speed_runs.build IS 'hash of its libraries';
COMMENT ON COLUMN speed_runs.cpu IS 'processor';
COMMENT ON COLUMN speed_runs.host IS 'computer';
COMMENT ON COLUMN speed_runs."at" IS 'when the process had ended, UTC';

CREATE TABLE speed (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    cpu VARCHAR, host VARCHAR, runtime VARCHAR, build VARCHAR, threads INTEGER, prompt INTEGER, generate INTEGER,
    session VARCHAR, "at" TIMESTAMP, rounds INTEGER, load_seconds DOUBLE, resident_bytes BIGINT,
    prefill_rate DOUBLE, prefill_ratio DOUBLE, prefill_low DOUBLE, prefill_high DOUBLE, prefill_verdict VARCHAR,
    prefill_itself_low DOUBLE, prefill_itself_high DOUBLE,
    decode_rate DOUBLE, decode_ratio DOUBLE, decode_low DOUBLE, decode_high DOUBLE, decode_verdict VARCHAR,
    decode_itself_low DOUBLE, decode_itself_high DOUBLE, error VARCHAR
);
COMMENT ON TABLE speed IS 'one row per trial, processor, runtime, settings and number of threads: its newest complete session; formulas: docs/deployment.md';
COMMENT ON COLUMN speed.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN speed.model IS 'id of the model as in the spec';
COMMENT ON COLUMN speed.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN speed.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN speed.cpu IS 'processor';
COMMENT ON COLUMN speed.host IS 'computer';
COMMENT ON COLUMN speed.runtime IS 'llama.cpp';
COMMENT ON COLUMN speed.build IS 'hash of its libraries';
COMMENT ON COLUMN speed.threads IS 'threads of the runtime';
COMMENT ON COLUMN speed.prompt IS 'tokens of the prompt';
COMMENT ON COLUMN speed.generate IS 'tokens generated after it';
COMMENT ON COLUMN speed.session IS 'session, as in speed_runs';
COMMENT ON COLUMN speed."at" IS 'when it began, UTC';
COMMENT ON COLUMN speed.rounds IS 'rounds in which the file was timed';
COMMENT ON COLUMN speed.load_seconds IS 'wall time to load the file, median';
COMMENT ON COLUMN speed.resident_bytes IS 'memory (RSS) that the runtime took on, after the prompt, median';
COMMENT ON COLUMN speed.prefill_rate IS 'tokens of a prompt per second, geometric mean over rounds';
COMMENT ON COLUMN speed.prefill_ratio IS 'that speed / dense''s, within rounds; NULL for dense, and for fewer than 3 rounds';
COMMENT ON COLUMN speed.prefill_low IS 'lower end of its 95 % interval over rounds';
COMMENT ON COLUMN speed.prefill_high IS 'upper end';
COMMENT ON COLUMN speed.prefill_verdict IS 'faster, slower, = (the whole interval lies within 0.95 to 1.05), not told apart, or: the machine was too busy (the interval of dense against itself does not lie there)';
COMMENT ON COLUMN speed.prefill_itself_low IS 'lower end of the 95 % interval of dense against itself (A/A)';
COMMENT ON COLUMN speed.prefill_itself_high IS 'upper end';
COMMENT ON COLUMN speed.decode_rate IS 'tokens generated per second, geometric mean over rounds';
COMMENT ON COLUMN speed.decode_ratio IS 'that speed / dense''s, within rounds';
COMMENT ON COLUMN speed.decode_low IS 'lower end of its 95 % interval over rounds';
COMMENT ON COLUMN speed.decode_high IS 'upper end';
COMMENT ON COLUMN speed.decode_verdict IS 'as prefill_verdict';
COMMENT ON COLUMN speed.decode_itself_low IS 'lower end of the 95 % interval of dense against itself';
COMMENT ON COLUMN speed.decode_itself_high IS 'upper end';
COMMENT ON COLUMN speed.error IS 'why it could not be timed';

CREATE TABLE warnings (
    trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    stage VARCHAR, message VARCHAR, attempt INTEGER, "at" TIMESTAMP, details JSON
);
COMMENT ON TABLE warnings IS 'one row per warning that a reader of the results must know, from the attempts whose results are current';
COMMENT ON COLUMN warnings.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN warnings.model IS 'id of the model as in the spec';
COMMENT ON COLUMN warnings.method IS 'compression method; dense for the uncompressed model';
COMMENT ON COLUMN warnings.variant IS 'compression setting, such as awq-4bit-g64; dense for the uncompressed model';
COMMENT ON COLUMN warnings.stage IS 'step that it is about';
COMMENT ON COLUMN warnings.message IS 'what was found';
COMMENT ON COLUMN warnings.attempt IS 'attempt that found it';
COMMENT ON COLUMN warnings."at" IS 'when, UTC';
COMMENT ON COLUMN warnings.details IS 'further fields of the record';

CREATE TABLE hypotheses (
    name VARCHAR, claim VARCHAR, metric VARCHAR, family VARCHAR, alternative VARCHAR, generalize VARCHAR, margin DOUBLE,
    declared TIMESTAMP, confirmatory BOOLEAN, estimate DOUBLE, low DOUBLE, high DOUBLE, p DOUBLE, p_adjusted DOUBLE,
    verdict VARCHAR, reason VARCHAR, units BIGINT, languages INTEGER, models INTEGER, models_holding INTEGER,
    needed_windows BIGINT, needed_languages BIGINT, needed_models BIGINT, calibration_draws INTEGER, notes VARCHAR[],
    "position" INTEGER
);
COMMENT ON TABLE hypotheses IS 'one row per hypothesis of the spec: what was found, and how sure that is; formulas: docs/findings.md';
COMMENT ON COLUMN hypotheses.name IS 'name in the spec';
COMMENT ON COLUMN hypotheses.claim IS 'the claim, in words';
COMMENT ON COLUMN hypotheses.metric IS 'what is compared; two metrics with a comma between them, if their order of variants is';
COMMENT ON COLUMN hypotheses.family IS 'hypotheses whose p are adjusted together (Holm)';
COMMENT ON COLUMN hypotheses.alternative IS 'what is claimed of the left side: better, worse, different or no_worse; NULL for an order of variants';
COMMENT ON COLUMN hypotheses.generalize IS 'what another sample is drawn of: windows (items of a task), languages, models or languages+models';
COMMENT ON COLUMN hypotheses.margin IS 'differences up to it do not matter, in the unit of the estimate (of ppl_ratio: from 1; of kl_ratio: of its logarithm); NULL: none';
COMMENT ON COLUMN hypotheses.declared IS 'when a run first recorded the hypothesis as it is now, UTC';
COMMENT ON COLUMN hypotheses.confirmatory IS 'whether it was recorded before every result that its verdict uses; false: exploratory';
COMMENT ON COLUMN hypotheses.estimate IS 'left minus right, in the mean; a ratio left / right for kl_ratio and ppl_ratio; Kendall''s tau for an order of variants';
COMMENT ON COLUMN hypotheses.low IS 'lower end of its 95 % interval, not adjusted for other hypotheses; of tau: its least value, given the pairs that are not sure';
COMMENT ON COLUMN hypotheses.high IS 'upper end';
COMMENT ON COLUMN hypotheses.p IS 'two-sided p; of no_worse one-sided; NULL: not tested';
COMMENT ON COLUMN hypotheses.p_adjusted IS 'p after Holm within the family, which the verdict uses';
COMMENT ON COLUMN hypotheses.verdict IS 'supported, contradicted, no difference beyond the margin, undecided or cannot be tested; agree, disagree or undecided for an order of variants';
COMMENT ON COLUMN hypotheses.reason IS 'why it cannot be tested, or what the verdict rests on where that is not the estimate';
COMMENT ON COLUMN hypotheses.units IS 'units of the level that it generalizes to: windows (documents, items, passages), languages or models; pairs of variants for an order';
COMMENT ON COLUMN hypotheses.languages IS 'languages, or tasks, that were compared';
COMMENT ON COLUMN hypotheses.models IS 'models that were compared';
COMMENT ON COLUMN hypotheses.models_holding IS 'models whose own interval over windows is on the side of the claim';
COMMENT ON COLUMN hypotheses.needed_windows IS 'windows (items) a language and model that would decide it with a power of 80 %, were the estimate true; NULL: not undecided, or too little varies to tell';
COMMENT ON COLUMN hypotheses.needed_languages IS 'languages (tasks) that would, in place of windows';
COMMENT ON COLUMN hypotheses.needed_models IS 'models that would, in place of windows';
COMMENT ON COLUMN hypotheses.calibration_draws IS 'seeds that calibration windows were drawn with: 1: another draw may say otherwise; NULL: nothing was drawn';
COMMENT ON COLUMN hypotheses.notes IS 'what a reader of the verdict must know';
COMMENT ON COLUMN hypotheses."position" IS 'place in the spec, from 0';

CREATE TABLE hypothesis_rows (
    hypothesis VARCHAR, kind VARCHAR, subject VARCHAR, estimate DOUBLE, low DOUBLE, high DOUBLE, p DOUBLE,
    p_adjusted DOUBLE, verdict VARCHAR, reason VARCHAR, units BIGINT
);
COMMENT ON TABLE hypothesis_rows IS 'one row per part of a hypothesis: what it says at each level, for each language, model or task, and without each of them';
COMMENT ON COLUMN hypothesis_rows.hypothesis IS 'name of the hypothesis';
COMMENT ON COLUMN hypothesis_rows.kind IS 'level, language, model, task, pair (of variants), or without (the estimate with one of them left out)';
COMMENT ON COLUMN hypothesis_rows.subject IS 'the level, language, model, task, pair, or what was left out';
COMMENT ON COLUMN hypothesis_rows.estimate IS 'left minus right; a ratio for kl_ratio and ppl_ratio';
COMMENT ON COLUMN hypothesis_rows.low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN hypothesis_rows.high IS 'upper end';
COMMENT ON COLUMN hypothesis_rows.p IS 'p of this row alone';
COMMENT ON COLUMN hypothesis_rows.p_adjusted IS 'p after Holm over the rows of this kind, where the hypothesis has a row by language, model or task; NULL: not adjusted';
COMMENT ON COLUMN hypothesis_rows.verdict IS 'as in hypotheses, for this row; NULL: not judged';
COMMENT ON COLUMN hypothesis_rows.reason IS 'why there is no figure';
COMMENT ON COLUMN hypothesis_rows.units IS 'units of the level';

CREATE TABLE hypothesis_pairs (
    hypothesis VARCHAR, pair INTEGER, side VARCHAR, trial_id VARCHAR, model VARCHAR, method VARCHAR, variant VARCHAR,
    compared BOOLEAN, reason VARCHAR
);
COMMENT ON TABLE hypothesis_pairs IS 'one row per trial of a hypothesis: which variants were compared with which';
COMMENT ON COLUMN hypothesis_pairs.hypothesis IS 'name of the hypothesis';
COMMENT ON COLUMN hypothesis_pairs.pair IS 'number of the pair of sides (an entry of match), from 0';
COMMENT ON COLUMN hypothesis_pairs.side IS 'left or right';
COMMENT ON COLUMN hypothesis_pairs.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN hypothesis_pairs.model IS 'id of the model as in the spec';
COMMENT ON COLUMN hypothesis_pairs.method IS 'compression method';
COMMENT ON COLUMN hypothesis_pairs.variant IS 'compression setting; those of one side are averaged in each window first';
COMMENT ON COLUMN hypothesis_pairs.compared IS 'whether its figures are in the estimate';
COMMENT ON COLUMN hypothesis_pairs.reason IS 'why they are not';

CREATE TABLE reversals (
    hypothesis VARCHAR, variant VARCHAR, other_variant VARCHAR, metric VARCHAR, difference DOUBLE, p DOUBLE,
    other_metric VARCHAR, other_difference DOUBLE, other_p DOUBLE, p_adjusted DOUBLE
);
COMMENT ON TABLE reversals IS 'one row per pair of variants that two metrics surely put in opposite orders';
COMMENT ON COLUMN reversals.hypothesis IS 'name of the hypothesis';
COMMENT ON COLUMN reversals.variant IS 'the variant that is better by metric';
COMMENT ON COLUMN reversals.other_variant IS 'the variant that is better by other_metric';
COMMENT ON COLUMN reversals.metric IS 'one metric';
COMMENT ON COLUMN reversals.difference IS 'variant minus other_variant by metric (a logarithm for kl_ratio and ppl_ratio)';
COMMENT ON COLUMN reversals.p IS 'two-sided p of that difference';
COMMENT ON COLUMN reversals.other_metric IS 'the other metric';
COMMENT ON COLUMN reversals.other_difference IS 'variant minus other_variant by other_metric';
COMMENT ON COLUMN reversals.other_p IS 'two-sided p of that difference';
COMMENT ON COLUMN reversals.p_adjusted IS 'the larger p, after Holm over all pairs of variants';

CREATE TABLE about (
    schema_version INTEGER, study VARCHAR, title VARCHAR, notes VARCHAR[], spec_hash VARCHAR, planned_at TIMESTAMP,
    published_at TIMESTAMP, studyctl VARCHAR
);
COMMENT ON TABLE about IS 'one row: what this file is';
COMMENT ON COLUMN about.schema_version IS 'version of these tables';
COMMENT ON COLUMN about.study IS 'name of the study';
COMMENT ON COLUMN about.title IS 'title of the study';
COMMENT ON COLUMN about.notes IS 'what a reader of the results must know about the study as a whole';
COMMENT ON COLUMN about.spec_hash IS 'hash of the spec';
COMMENT ON COLUMN about.planned_at IS 'when the spec was planned, UTC; NULL if there is no plan and it was rebuilt from the journals';
COMMENT ON COLUMN about.published_at IS 'when this file was made, UTC';
COMMENT ON COLUMN about.studyctl IS 'version of studyctl that made it';
