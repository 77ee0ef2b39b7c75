//! The words of the report in English and Chinese, side by side so that neither is forgotten.

use crate::config::Lang;

macro_rules! labels {
    ($($(#[doc = $doc:literal])* $name:ident: $en:literal, $zh:literal;)*) => {
        /// The words of one language.
        #[derive(Clone, Copy)]
        pub(super) struct Labels { $(pub $name: &'static str,)* }

        impl Labels {
            pub fn of(lang: Lang) -> Labels {
                match lang {
                    Lang::En => Labels { $($name: $en,)* },
                    Lang::Zh => Labels { $($name: $zh,)* },
                }
            }

            #[cfg(test)]
            pub fn all(&self) -> Vec<&'static str> {
                vec![$(self.$name,)*]
            }
        }
    };
}

labels! {
    title: "Fine-tuning report", "微调报告";
    completed: "completed", "已完成";
    early_stopped: "stopped early", "提前停止";
    interrupted: "interrupted", "已中断";
    steps: "steps", "步数";
    step: "step", "步";
    train_loss: "training loss", "训练损失";
    eval_loss: "evaluation loss", "评估损失";
    before: "before", "训练前";
    best: "best", "最佳";
    trainable: "trainable parameters", "可训练参数";
    of_base: "of the base", "占基座";
    time: "training time", "训练时间";
    memory: "peak memory", "峰值内存";
    throughput: "tokens per second", "每秒词元数";
    tokens: "tokens", "词元";
    labelled: "labelled tokens", "计损失词元";
    course: "Course", "训练过程";
    loss: "loss", "损失";
    learning_rate: "learning rate", "学习率";
    grad_norm: "gradient norm", "梯度范数";
    tokens_per_s: "tokens per second", "每秒词元数";
    resident: "resident memory (MiB)", "驻留内存 (MiB)";
    imbalance: "busiest expert / mean", "最忙专家 / 平均";
    expert_load: "Expert load", "专家负载";
    expert_note: "Share of routed tokens per expert and layer over the whole run; the stronger the colour, the more. Uniform is", "整个训练中每层各专家分到的词元比例, 颜色越深越多. 均匀分布为";
    layer: "layer", "层";
    trained: "What was trained", "训练对象";
    component: "component", "部件";
    parameters: "parameters", "参数量";
    adapted: "adapted", "已适配";
    modules: "modules", "模块";
    gradient: "gradient in step 1", "第 1 步有梯度";
    frozen: "frozen", "冻结";
    all: "all", "合计";
    gradient_note: "Gradient: tensors that moved in step 1. With LoRA, A waits while B is zero, so half is full coverage; experts to which no token was routed have none yet.", "梯度: 第 1 步有梯度的张量数. LoRA 中 B 初始为零, A 在第 1 步没有梯度, 因此一半即为完全覆盖; 未分到词元的专家暂无梯度.";
    data: "On what", "训练数据";
    side: "side", "部分";
    training: "training", "训练";
    evaluation: "evaluation", "评估";
    account: "account", "去向";
    reason: "reason", "原因";
    examples: "examples", "样本";
    rows: "rows", "行";
    incoming: "in", "输入";
    used: "used, labelled", "使用 (计损失)";
    masked: "masked", "遮蔽";
    cut: "cut", "截断";
    dropped: "dropped", "丢弃";
    lost: "lost", "损失比例";
    ends: "rows that end in a labelled end token", "以计损失的结束符结尾的行";
    thinks: "assistant turns with reasoning", "带推理的助手轮次";
    ledger_note: "Everything that came in is accounted for: rows and tokens add up.", "所有输入均有去向: 行数与词元数相加一致.";
    planned: "Plan and actual", "计划与实际";
    plan: "plan", "计划";
    actual: "actual", "实际";
    quantity: "quantity", "项目";
    memory_parts: "Memory as planned, by component", "计划内存构成";
    config: "Configuration", "配置";
    defaults: "values by default", "默认值";
    key: "key", "键";
    value: "value", "值";
    source: "source", "来源";
    lineage: "Lineage", "来源链";
    role: "role", "角色";
    path: "path", "路径";
    content_id: "content id", "内容标识";
    result: "result", "结果";
    result_of: "result taken from step", "结果取自第几步";
    method: "method", "方法";
    seconds_note: "Time of optimizer steps over all starts of the run, without loading and evaluating.", "仅含优化步的时间 (含多次启动), 不含加载与评估.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_have_every_word() {
        for (en, zh) in Labels::of(Lang::En).all().iter().zip(Labels::of(Lang::Zh).all()) {
            assert!(!en.is_empty() && !zh.is_empty());
            assert!(en.is_ascii(), "{en}");
            assert!(!zh.is_ascii(), "{zh}");
        }
    }
}
