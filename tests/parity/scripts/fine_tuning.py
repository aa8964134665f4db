"""The steps of transformers' page "Fine-tuning", with a model and texts that are made here."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, PreTrainedTokenizerFast, Qwen3Config

from transformers import Trainer, TrainingArguments  # isort: skip -- the line that is changed

TEXTS = ["today the stars say rest", "tomorrow the moon says go and meet a friend", "the sun is yours"] * 20
WORDS = ["[PAD]", "[UNK]", *sorted({word for text in TEXTS for word in text.split()})]

words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
words.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")

dataset = Dataset.from_dict({"text": TEXTS})
dataset = dataset.map(
    lambda rows: tokenizer(rows["text"], truncation=True, max_length=512),
    batched=True,
    remove_columns=dataset.column_names,
)
dataset = dataset.train_test_split(test_size=0.1, seed=0)

torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(
    Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
)

args = TrainingArguments(
    output_dir="fine-tuned",
    report_to="none",
    num_train_epochs=3,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=8,
    gradient_checkpointing=True,
    bf16=True,
    use_cpu=True,
    learning_rate=1e-2,
    logging_steps=1,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=dataset["train"],
    eval_dataset=dataset["test"],
    processing_class=tokenizer,
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
)
trainer.train()
trainer.save_model()
AutoModelForCausalLM.from_pretrained("fine-tuned")
